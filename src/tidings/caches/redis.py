"""A cache in Redis that all processes share, with a small one in front of it in each process.

While Redis is away everything is a miss and nothing waits. Whoever saw it away empties it before using it again: that
makes up for every drop that could not be told meanwhile, its own and those of others.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta

import msgspec
import structlog

from tidings.caches.hearing import TRUSTED_FOR, Dropped, Hearing
from tidings.caches.local import ENTRIES, SETTLES_WITHIN, LocalCache
from tidings.caches.redis_commands import CHUNK, CacheCommands
from tidings.errors import BackendError
from tidings.ports.cache import CacheStats
from tidings.redis_link import PATIENT, PROMPT, RedisLink

log = structlog.get_logger(__name__)

#: entries and bytes of the small cache in front
FRONT_ENTRIES = 1000
FRONT_BYTES = 4 * 2**20
#: seconds between two looks whether Redis is back
PROBE_EVERY = 1.0
#: seconds after which no process answers from what it heard before Redis went away
_NOBODY_TRUSTS_AFTER = TRUSTED_FOR + 0.1
_EVERYTHING = "*"


class RedisCache:
    """Implements `ports.cache.Cache` for any number of processes.

    Once `drop` returns, no process gives a dropped value, also when Redis hangs or died. One case is left: a process
    that alone cannot reach Redis drops for itself only, until Redis is back for it or the value's time is over.
    """

    def __init__(
        self, link: RedisLink, name: str, *, entries: int = ENTRIES, settle: timedelta = SETTLES_WITHIN
    ) -> None:
        """link: gives bytes, closed with the cache; name: of the cache in Redis; entries, settle: as `LocalCache`."""
        self._link = link
        self._commands = CacheCommands(link.client, name, entries=entries, settle=settle)
        self._front = LocalCache(entries=FRONT_ENTRIES, most_bytes=FRONT_BYTES, settle=settle)
        self._hearing = Hearing(link.client, self._commands.channel, dropped=self._heard, deaf=self._forget_front)
        #: counts how often drops may have been missed
        self._deaf = 0
        #: counts drops that were not told
        self._untold = 0
        self._away_since: float | None = None
        self._probe: asyncio.Task[None] | None = None
        self._closed = False
        self._hits = self._misses = 0

    @property
    def away(self) -> bool:
        """Whether Redis did not answer, or is not emptied yet since."""
        return self._away_since is not None or self._closed

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, bytes] = {}
        if not self.away:
            self._hearing.start()
            if self._hearing.listens:
                found = self._front.look(wanted)
            if missing := [key for key in wanted if key not in found]:
                found |= await self._fetched(missing)
        self._hits += len(found)
        self._misses += len(wanted) - len(found)
        return found

    async def set_many(self, values: Mapping[str, bytes], *, ttl: timedelta) -> None:
        # not into the front: whether the key settles after a drop is known to Redis
        for chunk in _chunks(list(values)) if ttl > timedelta() else ():
            if self.away:
                return
            try:
                async with self._link.within(PROMPT):
                    await self._commands.set({key: values[key] for key in chunk}, ttl)
            except BackendError as error:
                self._lost(error)

    async def drop(self, keys: Collection[str]) -> None:
        self._front.forget(keys)
        for chunk in _chunks(list(dict.fromkeys(keys))):
            if self.away:
                break
            try:
                async with self._link.within(PROMPT):
                    await self._commands.drop(chunk, msgspec.msgpack.encode(Dropped(keys=chunk)))
            except BackendError as error:
                self._lost(error)
        await self._untold_if_away()

    async def drop_matching(self, pattern: str) -> None:
        self._front.forget_matching(pattern)
        if not self.away:
            try:
                await self._sweep(pattern)
            except BackendError as error:
                self._lost(error)
        await self._untold_if_away()

    @property
    def stats(self) -> CacheStats:
        return CacheStats(self._hits, self._misses)

    async def close(self) -> None:
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        await self._hearing.close()
        await self._link.close()

    async def _fetched(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for chunk in _chunks(keys):
            deaf = self._deaf
            try:
                async with self._link.within(PROMPT):
                    entries = await self._commands.get(chunk)
            except BackendError as error:
                self._lost(error)
                return {}
            for key, (value, seconds) in entries.items():
                found[key] = value
                # what was asked for before a drop that nobody heard may be what was dropped
                if deaf == self._deaf:
                    self._front.put({key: value}, seconds)
        return found

    async def _sweep(self, pattern: str) -> None:
        """Drop what matches, in steps, each of them within a deadline."""
        async with self._link.within(PROMPT):
            await self._commands.sweep(pattern, msgspec.msgpack.encode(Dropped(pattern=pattern)))
        cursor = -1
        while cursor != 0:
            async with self._link.within(PROMPT):
                cursor = await self._commands.drop_some(pattern, max(cursor, 0))

    async def _untold_if_away(self) -> None:
        """Note a drop that was not told, and wait until no process trusts what it heard before."""
        if self._away_since is None:
            return
        self._untold += 1
        left = self._away_since + _NOBODY_TRUSTS_AFTER - time.monotonic()
        if self._probe is not None and left > 0:
            await asyncio.wait([self._probe], timeout=left)

    def _lost(self, error: BackendError) -> None:
        self._forget_front()
        if self._away_since is None and not self._closed:
            log.warning("cache_away", problem=error.message)
            self._away_since = time.monotonic()
            self._probe = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while self._away_since is not None:
            untold = self._untold
            with contextlib.suppress(BackendError):
                async with self._link.within(PATIENT) as client:
                    await client.ping()
                await self._sweep(_EVERYTHING)
                if untold == self._untold:
                    self._away_since = None
                    log.info("cache_back")
                continue
            await asyncio.sleep(PROBE_EVERY)
        self._probe = None

    def _heard(self, note: Dropped) -> None:
        self._front.forget(note.keys)
        if note.pattern is not None:
            self._front.forget_matching(note.pattern)

    def _forget_front(self) -> None:
        self._deaf += 1
        self._front.clear()


def _chunks(keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), CHUNK):
        yield list(keys[start : start + CHUNK])
