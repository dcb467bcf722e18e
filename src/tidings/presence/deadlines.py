"""A priority queue of deadlines, one per key."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
#: obsolete heap entries that are tolerated before a heap is compacted
MIN_COMPACTION_SIZE = 1000


class Deadlines(Generic[KeyT]):
    """One deadline per key. To postpone a deadline, as heartbeats do, costs no heap operation."""

    def __init__(self) -> None:
        self._deadlines: dict[KeyT, float] = {}
        #: key → its earliest entry in the heap
        self._earliest_entries: dict[KeyT, float] = {}
        self._heap: list[tuple[float, int, KeyT]] = []
        self._sequence = 0

    def set(self, key: KeyT, at: float) -> None:
        """Set or replace the deadline of a key."""
        self._deadlines[key] = at
        entry_at = self._earliest_entries.get(key)
        if entry_at is None or at < entry_at:
            self._push(key, at)
            if len(self._heap) > 2 * len(self._deadlines) + MIN_COMPACTION_SIZE:
                self._compact()

    def drop(self, key: KeyT) -> None:
        """Remove the deadline of a key, if it has one."""
        self._deadlines.pop(key, None)

    def pop_due(self, now: float, limit: int | None = None) -> list[KeyT]:
        """Remove and return at most `limit` keys whose deadline has passed, earliest first."""
        due: list[KeyT] = []
        while self._heap and self._heap[0][0] <= now and (limit is None or len(due) < limit):
            entry_at, _, key = heapq.heappop(self._heap)
            if self._earliest_entries.get(key) != entry_at:
                continue
            del self._earliest_entries[key]
            at = self._deadlines.get(key)
            if at is None:
                continue
            if at > entry_at:
                self._push(key, at)
                continue
            del self._deadlines[key]
            due.append(key)
        return due

    def __len__(self) -> int:
        return len(self._deadlines)

    def _push(self, key: KeyT, at: float) -> None:
        self._sequence += 1
        self._earliest_entries[key] = at
        heapq.heappush(self._heap, (at, self._sequence, key))

    def _compact(self) -> None:
        """Rebuild the heap from the current deadlines, without obsolete entries."""
        self._earliest_entries = dict(self._deadlines)
        self._heap = [(at, sequence, key) for sequence, (key, at) in enumerate(self._deadlines.items())]
        heapq.heapify(self._heap)
        self._sequence = len(self._heap)
