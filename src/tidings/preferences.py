"""Reads and changes preferences, with a cache for the API. Planning and sending read the database instead.

Every change invalidates the cached value in every process. `CACHE_TTL` is only an upper limit.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec

from tidings.model.user import Preference
from tidings.ports.cache import Cache
from tidings.ports.store import Store, Transaction

#: name of the cache, in Redis and in metrics
CACHE_NAME = "preferences"
CACHE_TTL = timedelta(minutes=5)
#: results of slower reads, in seconds, are not cached: they may arrive after the tombstone of an invalidation expired
MAX_CACHEABLE_READ_SECONDS = 2.0

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(tuple[Preference, ...])


class PreferenceService:
    """Reads and changes the preferences of users. One instance per process."""

    def __init__(self, store: Store, cache: Cache | None, timer: Callable[[], float] = time.monotonic) -> None:
        """cache: None = read the database each time; timer: a monotonic clock, in seconds."""
        self._store = store
        self._cache = cache
        self._timer = timer

    async def get(self, user_id: str) -> Sequence[Preference] | None:
        """Return a user's preferences, None for an unknown user. Raises BackendError."""
        if (cached := await self._get_cached(user_id)) is not None:
            return cached
        started = self._timer()
        async with self._store.read_snapshot() as tx:
            if await self._store.users.get(tx, user_id) is None:
                return None
            preferences = tuple(await self._store.users.get_preferences(tx, user_id))
        if self._cache is not None and self._timer() - started < MAX_CACHEABLE_READ_SECONDS:
            await self._cache.set_many({user_id: _encode(preferences)}, ttl=CACHE_TTL)
        return preferences

    @asynccontextmanager
    async def edit(self, user_id: str) -> AsyncIterator[Transaction]:
        """Open a transaction that changes a user's preferences or erases the user.

        The cached value is invalidated before it, in case this process crashes right after the commit. It is
        invalidated again afterwards, even after an error, because an unacknowledged commit may have succeeded.
        """
        await self._invalidate(user_id)
        try:
            async with self._store.transaction() as tx:
                yield tx
        finally:
            await self._invalidate(user_id)

    async def _get_cached(self, user_id: str) -> Sequence[Preference] | None:
        if self._cache is None:
            return None
        encoded = (await self._cache.get_many([user_id])).get(user_id)
        try:
            return None if encoded is None else _decoder.decode(encoded)
        except msgspec.MsgspecError:
            # written by another version of this program, in a rolling upgrade
            return None

    async def _invalidate(self, user_id: str) -> None:
        if self._cache is not None:
            await self._cache.drop([user_id])
