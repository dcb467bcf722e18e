"""Many deadlines, each of which may move: a heap that is put right when an entry comes to its top."""

import heapq
from collections.abc import Hashable
from datetime import datetime
from typing import Generic, TypeVar

#: entries that are not worth putting a heap in order for
FEW = 1000

KeyT = TypeVar("KeyT", bound=Hashable)


class Deadlines(Generic[KeyT]):
    """One deadline for each key. A deadline that only moves on, as a heartbeat's does, costs no step of the heap."""

    def __init__(self) -> None:
        self._at: dict[KeyT, datetime] = {}
        #: key → the earliest entry it has in the heap
        self._entered: dict[KeyT, datetime] = {}
        self._heap: list[tuple[datetime, int, KeyT]] = []
        self._count = 0

    def set(self, key: KeyT, at: datetime) -> None:
        """Set or move the deadline of a key."""
        self._at[key] = at
        entered = self._entered.get(key)
        if entered is None or at < entered:
            self._enter(key, at)
            if len(self._heap) > 2 * len(self._at) + FEW:
                self._in_order()

    def drop(self, key: KeyT) -> None:
        """Forget the deadline of a key."""
        self._at.pop(key, None)

    def take(self, now: datetime, limit: int | None = None) -> list[KeyT]:
        """Take keys whose deadline has come, earliest first; at most `limit`."""
        taken: list[KeyT] = []
        while self._heap and self._heap[0][0] <= now and (limit is None or len(taken) < limit):
            entered, _, key = heapq.heappop(self._heap)
            if self._entered.get(key) != entered:
                continue
            del self._entered[key]
            at = self._at.get(key)
            if at is None:
                continue
            if at > entered:
                self._enter(key, at)
                continue
            del self._at[key]
            taken.append(key)
        return taken

    def __len__(self) -> int:
        return len(self._at)

    def _enter(self, key: KeyT, at: datetime) -> None:
        self._count += 1
        self._entered[key] = at
        heapq.heappush(self._heap, (at, self._count, key))

    def _in_order(self) -> None:
        """Drop the entries that no deadline stands behind."""
        self._entered = dict(self._at)
        self._heap = [(at, place, key) for place, (key, at) in enumerate(self._at.items())]
        heapq.heapify(self._heap)
        self._count = len(self._heap)
