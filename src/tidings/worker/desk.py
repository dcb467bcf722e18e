"""Work of one kind: what arrives while all places are taken waits, and goes together.

Nothing waits on purpose, and the busier it is, the less a piece costs.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

PieceT = TypeVar("PieceT")


@dataclass(frozen=True, slots=True)
class Room:
    """How much of one kind of work there may be."""

    #: worked on at the same time
    places: int
    #: pieces done in one go
    together: int
    #: pieces that may wait before no more are taken from the lane
    waiting: int


class Desk(Generic[PieceT]):
    """Pieces of one kind that wait for a place, and those who serve them."""

    def __init__(self, work: Callable[[Sequence[PieceT]], Awaitable[None]], room: Room) -> None:
        """work: does some pieces together, and never raises."""
        self._work = work
        self._room = room
        self._waiting: deque[PieceT] = deque()
        self._serving = 0
        self._space = asyncio.Event()

    async def put(self, group: asyncio.TaskGroup, pieces: Sequence[PieceT]) -> None:
        """Have pieces done; returns when there is room for more."""
        self._waiting.extend(pieces)
        if self._waiting and self._serving < self._room.places:
            self._serving += 1
            group.create_task(self._serve())
        while len(self._waiting) > self._room.waiting:
            self._space.clear()
            await self._space.wait()

    def leave(self) -> list[PieceT]:
        """Take back what still waits."""
        left = list(self._waiting)
        self._waiting.clear()
        return left

    async def _serve(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(self._room.together, len(self._waiting)))]
                self._space.set()
                await self._work(some)
        finally:
            self._serving -= 1
