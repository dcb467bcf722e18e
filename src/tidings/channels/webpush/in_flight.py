"""Counts what is being sent, so that closing can wait for it."""

import asyncio
from types import TracebackType


class InFlight:
    """A context manager around each send; `ended` waits until none is inside."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        """Wait until nothing is being sent."""
        await self._none.wait()
