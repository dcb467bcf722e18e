"""A cache in Redis, shared by all processes, with a small in-memory front cache in each process.

While Redis is unavailable every read is a miss. A process that saw an outage empties the shared cache before it uses it
again. This replaces all invalidations that could not be published meanwhile, those of other processes included.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta

import msgspec

from tidings.backend_health import BackendHealth
from tidings.caches.invalidation_listener import MAX_STALENESS, Invalidation, InvalidationListener
from tidings.caches.memory_cache import MAX_ENTRIES, TOMBSTONE_TTL, MemoryCache
from tidings.caches.redis_commands import MAX_KEYS_PER_COMMAND, CacheCommands
from tidings.errors import BackendError
from tidings.ports.cache import CacheStats
from tidings.redis_client import FAST_TIMEOUT, SLOW_TIMEOUT, RedisClient

#: bounds of the front cache
MAX_FRONT_ENTRIES = 1000
MAX_FRONT_BYTES = 4 * 2**20
#: seconds between probes of an unavailable Redis
PROBE_INTERVAL = 1.0
#: seconds of an outage after which no process reads from its front cache any more
_STALE_AFTER = MAX_STALENESS + 0.1
_MATCH_ALL = "*"


class RedisCache:
    """Implements `ports.cache.Cache` for any number of processes.

    After `drop` returns, no process returns a dropped value, even if Redis hangs or is down. One exception remains: a
    process that alone cannot reach Redis drops the value for itself only. Other processes may return it until that
    process reaches Redis again or the value expires.
    """

    def __init__(
        self,
        redis_client: RedisClient,
        name: str,
        *,
        max_entries: int = MAX_ENTRIES,
        tombstone_ttl: timedelta = TOMBSTONE_TTL,
    ) -> None:
        """redis_client: returns bytes; `close` closes it. name: prefix of key names. The rest: as for `MemoryCache`."""
        self._redis_client = redis_client
        self._commands = CacheCommands(redis_client.client, name, max_entries=max_entries, tombstone_ttl=tombstone_ttl)
        self._front = MemoryCache(max_entries=MAX_FRONT_ENTRIES, max_bytes=MAX_FRONT_BYTES, tombstone_ttl=tombstone_ttl)
        self._listener = InvalidationListener(
            redis_client.client, self._commands.channel, on_invalidation=self._on_invalidation, on_gap=self._on_gap
        )
        #: how often invalidations may have been missed
        self._gap_count = 0
        #: invalidations that could not be published
        self._unpublished_count = 0
        self._health = BackendHealth("cache")
        self._probe_task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._hits = self._misses = 0

    @property
    def is_down(self) -> bool:
        """Whether Redis is unavailable, or not emptied yet after an outage, or the cache is closed."""
        return not self._health.is_available or self._is_closed

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        requested = list(dict.fromkeys(keys))
        found: dict[str, bytes] = {}
        if not self.is_down:
            self._listener.start()
            if self._listener.is_current:
                found = self._front.peek(requested)
            if missing := [key for key in requested if key not in found]:
                found |= await self._fetch(missing)
        self._hits += len(found)
        self._misses += len(requested) - len(found)
        return found

    async def set_many(self, values: Mapping[str, bytes], *, ttl: timedelta) -> None:
        # not stored in the front cache: only Redis knows whether a tombstone rejects the key
        for chunk in _chunks(list(values)) if ttl > timedelta() else ():
            if self.is_down:
                return
            try:
                async with self._redis_client.deadline(FAST_TIMEOUT):
                    await self._commands.set({key: values[key] for key in chunk}, ttl)
            except BackendError as error:
                self._mark_down(error)

    async def drop(self, keys: Collection[str]) -> None:
        self._front.invalidate(keys)
        for chunk in _chunks(list(dict.fromkeys(keys))):
            if self.is_down:
                break
            try:
                async with self._redis_client.deadline(FAST_TIMEOUT):
                    await self._commands.drop(chunk, msgspec.msgpack.encode(Invalidation(keys=chunk)))
            except BackendError as error:
                self._mark_down(error)
        await self._record_unpublished_if_away()

    async def drop_matching(self, pattern: str) -> None:
        self._front.invalidate_matching(pattern)
        if not self.is_down:
            try:
                await self._drop_matching_in_redis(pattern)
            except BackendError as error:
                self._mark_down(error)
        await self._record_unpublished_if_away()

    @property
    def stats(self) -> CacheStats:
        return CacheStats(self._hits, self._misses)

    async def close(self) -> None:
        self._is_closed = True
        if self._probe_task is not None:
            self._probe_task.cancel()
            await asyncio.wait([self._probe_task])
        await self._listener.close()
        await self._redis_client.close()

    async def _fetch(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for chunk in _chunks(keys):
            gap_count = self._gap_count
            try:
                async with self._redis_client.deadline(FAST_TIMEOUT):
                    entries = await self._commands.get(chunk)
            except BackendError as error:
                self._mark_down(error)
                return {}
            for key, (value, seconds) in entries.items():
                found[key] = value
                # after a gap the value may be one whose invalidation was missed
                if gap_count == self._gap_count:
                    self._front.store({key: value}, seconds)
        return found

    async def _drop_matching_in_redis(self, pattern: str) -> None:
        """Drop matching keys in steps, each with its own deadline."""
        async with self._redis_client.deadline(FAST_TIMEOUT):
            await self._commands.add_pattern_tombstone(pattern, msgspec.msgpack.encode(Invalidation(pattern=pattern)))
        cursor = -1
        while cursor != 0:
            async with self._redis_client.deadline(FAST_TIMEOUT):
                cursor = await self._commands.drop_matching_step(pattern, max(cursor, 0))

    async def _record_unpublished_if_away(self) -> None:
        """During an outage, count an unpublished invalidation and wait until every front cache is stale."""
        down_seconds = self._health.down_seconds
        if down_seconds is None:
            return
        self._unpublished_count += 1
        remaining = _STALE_AFTER - down_seconds
        if self._probe_task is not None and remaining > 0:
            await asyncio.wait([self._probe_task], timeout=remaining)

    def _mark_down(self, error: BackendError) -> None:
        self._on_gap()
        if not self._is_closed and self._health.record_failure(error):
            self._probe_task = asyncio.create_task(self._probe_until_available())

    async def _probe_until_available(self) -> None:
        """Empty the shared cache, which proves that writes work, until no invalidation was missed meanwhile."""
        while not self._health.is_available:
            unpublished_count = self._unpublished_count
            try:
                async with self._redis_client.deadline(SLOW_TIMEOUT) as client:
                    await client.ping()
                await self._drop_matching_in_redis(_MATCH_ALL)
            except BackendError as error:
                self._health.record_failure(error)
            else:
                if unpublished_count != self._unpublished_count or self._health.record_success():
                    continue
            await asyncio.sleep(PROBE_INTERVAL)
        self._probe_task = None

    def _on_invalidation(self, invalidation: Invalidation) -> None:
        self._front.invalidate(invalidation.keys)
        if invalidation.pattern is not None:
            self._front.invalidate_matching(invalidation.pattern)

    def _on_gap(self) -> None:
        self._gap_count += 1
        self._front.clear()


def _chunks(keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), MAX_KEYS_PER_COMMAND):
        yield list(keys[start : start + MAX_KEYS_PER_COMMAND])
