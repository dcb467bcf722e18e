"""Outcomes wait here for at most 200 ms or 500 rows and are then written together.

What is lost when the process dies is bounded by what waits here: those messages may be sent a second time, no more.
When the database does not answer, outcomes are kept and sending stops, so that the bound holds.
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
        """Take one outcome; waits while twice as many as fit are unwritten."""
        await self._room.wait()
        self._buffer.append(attempted)
        self._some.set()
        if len(self._buffer) >= self._max_rows:
            self._full.set()
        if len(self._buffer) >= 2 * self._max_rows:
            self._room.clear()

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
            while self._buffer:
                rows = self._buffer[: self._max_rows]
                await self._write(rows)
                del self._buffer[: len(rows)]
                if len(self._buffer) < self._max_rows:
                    self._full.clear()
                    self._room.set()
            self._some.clear()
