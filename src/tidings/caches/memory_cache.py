"""An in-memory cache for one process, bounded by entries and bytes."""

import re
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from cachetools import TLRUCache, TTLCache

from tidings.ports.cache import CacheStats

#: most entries in a cache
MAX_ENTRIES = 10_000
#: most bytes of keys and values in an in-memory cache
MAX_BYTES = 32 * 2**20
#: how long an invalidated key rejects values: one that was read before the invalidation may be stored after it
TOMBSTONE_TTL = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    #: in seconds of the cache's timer
    expires_at: float
    size: int


class MemoryCache:
    """Implements `ports.cache.Cache` for one process."""

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        tombstone_ttl: timedelta = TOMBSTONE_TTL,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """tombstone_ttl: how long an invalidated key rejects values. timer: returns monotonic seconds."""
        self._timer = timer
        self._tombstone_ttl = tombstone_ttl.total_seconds()
        self._max_entries = max_entries
        self._entries: TLRUCache[str, _Entry] = TLRUCache(
            max_bytes, ttu=lambda _key, entry, _now: entry.expires_at, timer=timer, getsizeof=lambda entry: entry.size
        )
        self._key_tombstones: TTLCache[str, None] = TTLCache(max_entries, ttl=self._tombstone_ttl, timer=timer)
        #: invalidated patterns as (expiry time, test of a key), earliest first
        self._pattern_tombstones: deque[tuple[float, Callable[[str], bool]]] = deque()
        self._reject_until = 0.0
        self._hits = self._misses = 0

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        found = self.peek(keys)
        requested = len(set(keys))
        self._hits += len(found)
        self._misses += requested - len(found)
        return found

    async def set_many(self, values: Mapping[str, bytes], *, ttl: timedelta) -> None:
        self.store(values, ttl.total_seconds())

    async def drop(self, keys: Collection[str]) -> None:
        self.invalidate(keys)

    async def drop_matching(self, pattern: str) -> None:
        self.invalidate_matching(pattern)

    @property
    def stats(self) -> CacheStats:
        return CacheStats(self._hits, self._misses)

    async def close(self) -> None:
        self.clear()

    def peek(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Do as `get_many`, without counting hits and misses."""
        entries = ((key, self._entries.get(key)) for key in keys)
        return {key: entry.value for key, entry in entries if entry is not None}

    def store(self, values: Mapping[str, bytes], seconds: float) -> None:
        """Do as `set_many`. A value larger than the whole cache is not stored."""
        now = self._timer()
        for key, value in values.items() if seconds > 0 else ():
            if self._has_tombstone(key, now):
                continue
            entry = _Entry(value, now + seconds, len(value) + len(key.encode()))
            if entry.size > self._entries.maxsize:
                self._entries.pop(key, None)
                continue
            self._entries[key] = entry
            while len(self._entries) > self._max_entries:
                self._entries.popitem()

    def invalidate(self, keys: Collection[str]) -> None:
        """Do as `drop`."""
        for key in keys:
            self._entries.pop(key, None)
            if self._key_tombstones.currsize >= self._key_tombstones.maxsize:
                # the next insertion evicts a live tombstone: reject every value until all present ones would expire
                self._reject_until = self._timer() + self._tombstone_ttl
            self._key_tombstones[key] = None

    def invalidate_matching(self, pattern: str) -> None:
        """Do as `drop_matching`."""
        matches = _matcher(pattern)
        for key in [key for key in self._entries if matches(key)]:
            self._entries.pop(key, None)
        self._pattern_tombstones.append((self._timer() + self._tombstone_ttl, matches))

    def clear(self) -> None:
        """Remove every value; tombstones stay."""
        self._entries.clear()

    def _has_tombstone(self, key: str, now: float) -> bool:
        while self._pattern_tombstones and self._pattern_tombstones[0][0] <= now:
            self._pattern_tombstones.popleft()
        return (
            now < self._reject_until
            or key in self._key_tombstones
            or any(matches(key) for _, matches in self._pattern_tombstones)
        )


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test whether a whole key matches. Only `*` is special, as in the patterns for Redis."""
    compiled = re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
    return lambda key: compiled.fullmatch(key) is not None
