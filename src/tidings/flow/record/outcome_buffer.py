"""The write-behind buffer for outcomes: they wait briefly in memory and are written in bulk.

If the process dies, the buffered outcomes are lost and those messages may be sent a second time. `max_rows` bounds how
many: while that many are unwritten, also during an outage of the database, `add` blocks and so no more is sent. Only a
cancelled task, which sends nothing more, may exceed the limit. Writing begins at four fifths of the limit, or when the
oldest outcome has waited for `max_delay` seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from tidings.errors import BackendError
from tidings.model.delivery import AttemptResult

log = structlog.get_logger(__name__)


class OutcomeBuffer:
    """Buffers outcomes in front of `write`. Not thread-safe: one event loop."""

    def __init__(
        self, write: Callable[[Sequence[AttemptResult]], Awaitable[None]], *, max_rows: int, max_delay: float
    ) -> None:
        self._write = write
        self._max_rows = max_rows
        self._flush_threshold = max(1, max_rows * 4 // 5)
        self._max_delay = max_delay
        self._buffer: list[AttemptResult] = []
        self._has_rows = asyncio.Event()
        self._flush_requested = asyncio.Event()
        self._has_capacity = asyncio.Event()
        self._has_capacity.set()
        self._write_lock = asyncio.Lock()

    @property
    def pending_count(self) -> int:
        return len(self._buffer)

    async def add(self, result: AttemptResult) -> None:
        """Add an outcome. Blocks while `max_rows` are unwritten, so that nothing more is sent in the meantime.

        A cancelled task does not wait: it sends nothing more, the shutdown waits for it, and its outcome must be kept.
        """
        task = asyncio.current_task()
        assert task is not None, "runs in a task"
        try:
            while len(self._buffer) >= self._max_rows and not task.cancelling():
                await self._has_capacity.wait()
        finally:
            self._append(result)

    def _append(self, result: AttemptResult) -> None:
        self._buffer.append(result)
        self._has_rows.set()
        if len(self._buffer) >= self._flush_threshold:
            self._flush_requested.set()
        if len(self._buffer) >= self._max_rows:
            self._has_capacity.clear()

    def flush_soon(self) -> None:
        """Write the buffered outcomes without further delay, because no others are expected soon."""
        if self._buffer:
            self._flush_requested.set()

    async def run(self) -> None:
        """Write outcomes whenever they are due, until cancelled. Retries while the database is unavailable."""
        failure_logged = False
        while True:
            await self._has_rows.wait()
            try:
                async with asyncio.timeout(self._max_delay):
                    await self._flush_requested.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
                failure_logged = False
            except BackendError as error:
                if not failure_logged:
                    log.warning("outcomes_not_written", waiting=len(self._buffer), error=error.message)
                failure_logged = True
                await asyncio.sleep(min(error.retry_after, 1.0))

    async def flush(self) -> None:
        """Write all buffered outcomes. Raises BackendError if the database fails; the outcomes stay in the buffer."""
        async with self._write_lock:
            while rows := self._buffer[:]:
                await self._write(rows)
                del self._buffer[: len(rows)]
                self._flush_requested.clear()
                if len(self._buffer) < self._max_rows:
                    self._has_capacity.set()
            self._has_rows.clear()
