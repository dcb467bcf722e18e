"""Reads and changes preferences, with a cache for the API. Planning and sending read the database instead.

Every change invalidates the cached value in every process. `CACHE_TTL` is only an upper limit.
"""

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256

import msgspec

from tidings.errors import PreconditionFailed, ValidationFailed
from tidings.model.preference import MAX_ENTRIES, Preference
from tidings.ports.cache import Cache
from tidings.ports.store import Store, Transaction

#: name of the cache, in Redis and in metrics
CACHE_NAME = "preferences"
CACHE_TTL = timedelta(minutes=5)
#: results of slower reads, in seconds, are not cached: they may arrive after the tombstone of an invalidation expired
MAX_CACHEABLE_READ_SECONDS = 2.0

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(tuple[Preference, ...])


def compute_version(preferences: Sequence[Preference]) -> str:
    """Return what identifies a state of a user's entries, in the order of the store."""
    return sha256(_encode(tuple(preferences))).hexdigest()[:16]


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

    async def replace(
        self, user_id: str, entries: Sequence[Preference], *, if_versions: Collection[str] | None = None
    ) -> Sequence[Preference] | None:
        """Replace all entries of a user. Returns those stored now, None for an unknown user.

        if_versions: see `compute_version`; None = any. Raises PreconditionFailed if the stored entries have none of
        these versions.
        """
        async with self.edit(user_id) as tx:
            stored = await self._load_locked(tx, user_id, if_versions)
            if stored is None:
                return None
            kept = {entry.key for entry in entries}
            await self._store.users.remove_preferences(tx, user_id, [one for one in stored if one.key not in kept])
            await self._store.users.set_preferences(tx, user_id, entries)
            return await self._store.users.get_preferences(tx, user_id)

    async def merge(
        self,
        user_id: str,
        changed: Sequence[Preference],
        removed: Sequence[Preference] = (),
        *,
        if_versions: Collection[str] | None = None,
    ) -> Sequence[Preference] | None:
        """Store some entries and remove others. Returns and raises as `replace`, and ValidationFailed for too many."""
        async with self.edit(user_id) as tx:
            stored = await self._load_locked(tx, user_id, if_versions)
            if stored is None:
                return None
            left = {entry.key for entry in (*stored, *changed)} - {entry.key for entry in removed}
            if len(left) > MAX_ENTRIES:
                raise ValidationFailed.for_field(
                    "preferences",
                    f"would be {len(left)} entries, more than {MAX_ENTRIES}; remove some with enabled: null",
                )
            await self._store.users.remove_preferences(tx, user_id, removed)
            await self._store.users.set_preferences(tx, user_id, changed)
            return await self._store.users.get_preferences(tx, user_id)

    async def _load_locked(
        self, tx: Transaction, user_id: str, if_versions: Collection[str] | None
    ) -> Sequence[Preference] | None:
        if not await self._store.users.lock_preferences(tx, user_id):
            return None
        stored = await self._store.users.get_preferences(tx, user_id)
        if if_versions is not None and compute_version(stored) not in if_versions:
            raise PreconditionFailed("The preferences were changed in the meantime. Read them again, then change them.")
        return stored

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
