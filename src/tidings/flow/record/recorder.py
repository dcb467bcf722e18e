"""Outcomes wait here for a moment and are then written together.

What is lost when the process dies is bounded by what waits here: those messages may be sent a second time, no more.
So there is a limit, and sending stops at it: nobody gets rid of an outcome while `max_rows` are unwritten, also when
the database does not answer, apart from who is told to stop and sends nothing more. Writing begins at four fifths of
the limit, or when the oldest outcome is `max_delay` old.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from tidings.errors import BackendError
from tidings.model.delivery import Attempted

log = structlog.get_logger(__name__)


class Recorder:
    """Buffers outcomes in front of `write`. One event loop only."""

    def __init__(
        self, write: Callable[[Sequence[Attempted]], Awaitable[None]], *, max_rows: int, max_delay: float
    ) -> None:
        self._write = write
        self._max_rows = max_rows
        self._enough = max(1, max_rows * 4 // 5)
        self._max_delay = max_delay
        self._buffer: list[Attempted] = []
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._writing = asyncio.Lock()

    @property
    def waiting(self) -> int:
        return len(self._buffer)

    async def add(self, attempted: Attempted) -> None:
        """Take one outcome; waits while `max_rows` are unwritten, so that nothing more is sent meanwhile.

        A task that is cancelled sends nothing more, and a stop waits for it: what it knows is kept without a wait.
        """
        me = asyncio.current_task()
        assert me is not None, "runs in a task"
        try:
            while len(self._buffer) >= self._max_rows and not me.cancelling():
                await self._room.wait()
        finally:
            self._keep(attempted)

    def _keep(self, attempted: Attempted) -> None:
        self._buffer.append(attempted)
        self._some.set()
        if len(self._buffer) >= self._enough:
            self._full.set()
        if len(self._buffer) >= self._max_rows:
            self._room.clear()

    def hurry(self) -> None:
        """Write what waits now: nothing more is on its way that could travel with it."""
        if self._buffer:
            self._full.set()

    async def run(self) -> None:
        """Write whenever something is due, until cancelled."""
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(self._max_delay):
                    await self._full.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
            except BackendError as error:
                log.warning("outcomes_not_written", waiting=len(self._buffer), problem=error.message)
                await asyncio.sleep(min(error.retry_after, 1.0))

    async def flush(self) -> None:
        """Write all that waits. Raises BackendError, with nothing lost, when the database does not answer."""
        async with self._writing:
            while rows := self._buffer[:]:
                await self._write(rows)
                del self._buffer[: len(rows)]
                self._full.clear()
                if len(self._buffer) < self._max_rows:
                    self._room.set()
            self._some.clear()
