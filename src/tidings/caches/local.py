"""A cache inside the process, bounded by entries and bytes."""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from cachetools import TLRUCache, TTLCache

from tidings.caches.globs import matcher
from tidings.ports.cache import CacheStats

#: entries that a cache holds at most
ENTRIES = 10_000
#: bytes of keys and values that a cache in the process holds at most
MOST_BYTES = 32 * 2**20
#: what was dropped is not taken in again for so long: a value that was read before the drop may arrive after it
SETTLES_WITHIN = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    #: by the timer of the cache
    until: float
    size: int


class LocalCache:
    """Implements `ports.cache.Cache` for one process."""

    def __init__(
        self,
        *,
        entries: int = ENTRIES,
        most_bytes: int = MOST_BYTES,
        settle: timedelta = SETTLES_WITHIN,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """settle: for how long a key that was dropped is not taken in; timer: seconds from any beginning."""
        self._timer = timer
        self._settle = settle.total_seconds()
        self._most = entries
        self._kept: TLRUCache[str, _Entry] = TLRUCache(
            most_bytes, ttu=lambda _key, entry, _now: entry.until, timer=timer, getsizeof=lambda entry: entry.size
        )
        self._dropped: TTLCache[str, None] = TTLCache(entries, ttl=self._settle, timer=timer)
        #: patterns that were dropped, each with the time until which it counts
        self._swept: deque[tuple[float, Callable[[str], bool]]] = deque()
        self._deaf_until = 0.0
        self._hits = self._misses = 0

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        found = self.look(keys)
        wanted = len(set(keys))
        self._hits += len(found)
        self._misses += wanted - len(found)
        return found

    async def set_many(self, values: Mapping[str, bytes], *, ttl: timedelta) -> None:
        self.put(values, ttl.total_seconds())

    async def drop(self, keys: Collection[str]) -> None:
        self.forget(keys)

    async def drop_matching(self, pattern: str) -> None:
        self.forget_matching(pattern)

    @property
    def stats(self) -> CacheStats:
        return CacheStats(self._hits, self._misses)

    async def close(self) -> None:
        self.clear()

    def look(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Do `get_many` without counting."""
        entries = ((key, self._kept.get(key)) for key in keys)
        return {key: entry.value for key, entry in entries if entry is not None}

    def put(self, values: Mapping[str, bytes], seconds: float) -> None:
        """Do `set_many`. Values that are larger than the whole cache are left out."""
        now = self._timer()
        for key, value in values.items() if seconds > 0 else ():
            if self._settling(key, now):
                continue
            entry = _Entry(value, now + seconds, len(value) + len(key.encode()))
            if entry.size > self._kept.maxsize:
                self._kept.pop(key, None)
                continue
            self._kept[key] = entry
            while len(self._kept) > self._most:
                self._kept.popitem()

    def forget(self, keys: Collection[str]) -> None:
        """Do `drop`."""
        for key in keys:
            self._kept.pop(key, None)
            if self._dropped.currsize >= self._dropped.maxsize:
                # the oldest would be forgotten too early: nothing is taken in until all of them would have settled
                self._deaf_until = self._timer() + self._settle
            self._dropped[key] = None

    def forget_matching(self, pattern: str) -> None:
        """Do `drop_matching`."""
        matches = matcher(pattern)
        for key in [key for key in self._kept if matches(key)]:
            self._kept.pop(key, None)
        self._swept.append((self._timer() + self._settle, matches))

    def clear(self) -> None:
        """Forget every value."""
        self._kept.clear()

    def _settling(self, key: str, now: float) -> bool:
        while self._swept and self._swept[0][0] <= now:
            self._swept.popleft()
        return now < self._deaf_until or key in self._dropped or any(matches(key) for _, matches in self._swept)
