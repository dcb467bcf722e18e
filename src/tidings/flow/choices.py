"""What users chose, remembered for whoever shows it (MISSION M21). Planning and sending never ask here.

Five minutes are the longest that a value lives, not how old it may be: every change forgets it, in every process.
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
CACHE = "preferences"
KEPT_FOR = timedelta(minutes=5)
#: seconds that reading may take for its result to be kept: what is older may come after a drop that has settled
KEPT_IF_READ_WITHIN = 2.0

_encoded = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(tuple[Preference, ...])


class Choices:
    """Reads and changes the choices of users. One per process."""

    def __init__(self, store: Store, cache: Cache | None, timer: Callable[[], float] = time.monotonic) -> None:
        """cache: None = look at the database each time; timer: seconds from any beginning."""
        self._store = store
        self._cache = cache
        self._timer = timer

    async def of(self, user_id: str) -> Sequence[Preference] | None:
        """Return what a user chose, None for an unknown user. Raises BackendError."""
        if (known := await self._remembered(user_id)) is not None:
            return known
        started = self._timer()
        async with self._store.read() as tx:
            if await self._store.users.get(tx, user_id) is None:
                return None
            choices = tuple(await self._store.users.preferences(tx, user_id))
        if self._cache is not None and self._timer() - started < KEPT_IF_READ_WITHIN:
            await self._cache.set_many({user_id: _encoded(choices)}, ttl=KEPT_FOR)
        return choices

    @asynccontextmanager
    async def changing(self, user_id: str) -> AsyncIterator[Transaction]:
        """Open a writing transaction that changes a user's choices or erases the user.

        They are forgotten before it, for the case that this process dies right after its commit, and again after it,
        however it ended: a commit that was not answered may have happened.
        """
        await self._forget(user_id)
        try:
            async with self._store.begin() as tx:
                yield tx
        finally:
            await self._forget(user_id)

    async def _remembered(self, user_id: str) -> Sequence[Preference] | None:
        if self._cache is None:
            return None
        found = (await self._cache.get_many([user_id])).get(user_id)
        try:
            return None if found is None else _decoder.decode(found)
        except msgspec.MsgspecError:
            # of another version of this program, while it is replaced
            return None

    async def _forget(self, user_id: str) -> None:
        if self._cache is not None:
            await self._cache.drop([user_id])
