"""The preference service reads through a cache and never returns preferences older than the last change."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from tests.support.server import eventually

from tidings.caches.memory_cache import MemoryCache
from tidings.caches.redis_cache import RedisCache
from tidings.model.preference import Preference
from tidings.model.user import User
from tidings.ports.cache import Cache
from tidings.preferences import CACHE_TTL, MAX_CACHEABLE_READ_SECONDS, PreferenceService
from tidings.redis_client import RedisClient
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.valkey import ValkeyServer

ON, OFF = Preference("NEWS", "webpush", True), Preference("NEWS", "webpush", False)
#: short, so that a dropped key is cached again within a test
TOMBSTONE_TTL = timedelta(milliseconds=50)


@pytest.fixture
async def store_with_users(store: SqlStore, clock: FrozenClock) -> SqlStore:
    """A store with the users ana and ben."""
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana"), User("ben")], clock.now())
    return store


@pytest.fixture
async def two_caches(redis_url: str) -> AsyncIterator[tuple[Cache, Cache]]:
    """One cache as seen by two processes."""
    caches = [
        RedisCache(RedisClient(redis_url, decode=False), "choices", tombstone_ttl=TOMBSTONE_TTL) for _ in range(2)
    ]
    yield caches[0], caches[1]
    for cache in caches:
        await cache.close()


async def test_a_second_read_executes_no_statement(store_with_users: SqlStore) -> None:
    preferences = PreferenceService(store_with_users, MemoryCache())
    assert await preferences.get("ana") == ()
    before = store_with_users.statement_count
    assert await preferences.get("ana") == ()
    assert store_with_users.statement_count == before


async def test_without_a_cache_every_read_queries_the_database(store_with_users: SqlStore) -> None:
    preferences = PreferenceService(store_with_users, None)
    async with preferences.edit("ana") as tx:
        await store_with_users.users.set_preferences(tx, "ana", [OFF])
    assert list(await preferences.get("ana") or ()) == [OFF]
    before = store_with_users.statement_count
    await preferences.get("ana")
    assert store_with_users.statement_count == before + 2


async def test_a_new_user_is_found_although_they_were_looked_up_before(
    store_with_users: SqlStore, clock: FrozenClock
) -> None:
    preferences = PreferenceService(store_with_users, MemoryCache())
    assert await preferences.get("cleo") is None
    async with store_with_users.transaction() as tx:
        await store_with_users.users.upsert(tx, [User("cleo")], clock.now())
    assert await preferences.get("cleo") == ()


@pytest.mark.parametrize("commits", [True, False])
async def test_a_change_is_visible_only_after_its_commit(store_with_users: SqlStore, commits: bool) -> None:
    preferences = PreferenceService(store_with_users, MemoryCache(tombstone_ttl=timedelta()))
    assert await preferences.get("ana") == ()
    try:
        async with preferences.edit("ana") as tx:
            await store_with_users.users.set_preferences(tx, "ana", [OFF])
            assert await preferences.get("ana") == (), "the uncommitted change is not visible"
            if not commits:
                raise asyncio.CancelledError
    except asyncio.CancelledError:
        pass
    assert list(await preferences.get("ana") or ()) == ([OFF] if commits else [])


async def test_an_erased_user_is_unknown_at_once(store_with_users: SqlStore) -> None:
    preferences = PreferenceService(store_with_users, MemoryCache())
    assert await preferences.get("ana") == ()
    async with preferences.edit("ana") as tx:
        assert await store_with_users.users.erase(tx, "ana")
    assert await preferences.get("ana") is None


async def test_a_slow_read_is_not_cached(store_with_users: SqlStore) -> None:
    ticks = iter([0.0, MAX_CACHEABLE_READ_SECONDS, 10.0, 10.0 + MAX_CACHEABLE_READ_SECONDS / 2])
    preferences = PreferenceService(store_with_users, cache := MemoryCache(), timer=lambda: next(ticks))
    await preferences.get("ana")
    assert await cache.get_many(["ana"]) == {}
    await preferences.get("ana")
    assert list(await cache.get_many(["ana"])) == ["ana"]


async def test_an_undecodable_cache_entry_is_read_again(store_with_users: SqlStore) -> None:
    preferences = PreferenceService(store_with_users, cache := MemoryCache())
    await cache.set_many({"ana": b"\xc1 no message pack"}, ttl=CACHE_TTL)
    assert await preferences.get("ana") == ()


async def test_a_change_in_one_process_is_seen_in_another(
    store_with_users: SqlStore, two_caches: tuple[Cache, Cache]
) -> None:
    here, there = (PreferenceService(store_with_users, cache) for cache in two_caches)
    for expected in (OFF, ON, OFF, ON):
        await _wait_until_cached(two_caches[1], there, "ana")
        async with here.edit("ana") as tx:
            await store_with_users.users.set_preferences(tx, "ana", [expected])

        async def is_seen(expected: Preference = expected) -> bool:
            return list(await there.get("ana") or ()) == [expected]

        # the invalidation takes a moment to arrive
        await eventually(is_seen, within=2.0, pause=0)
        assert list(await here.get("ana") or ()) == [expected]


async def test_a_read_overtaken_by_a_change_caches_nothing_stale(
    store_with_users: SqlStore, two_caches: tuple[Cache, Cache]
) -> None:
    here = PreferenceService(store_with_users, two_caches[0])

    async def change() -> None:
        async with here.edit("ana") as tx:
            await store_with_users.users.set_preferences(tx, "ana", [OFF])

    there = PreferenceService(_OvertakenStore(store_with_users, change), two_caches[1])  # type: ignore[arg-type]  # duck-typed
    assert list(await there.get("ana") or ()) == [], "it was read before the change"
    assert list(await here.get("ana") or ()) == [OFF]
    assert list(await PreferenceService(store_with_users, two_caches[1]).get("ana") or ()) == [OFF]


async def test_a_change_during_a_redis_outage_is_seen_after_recovery(store_with_users: SqlStore) -> None:
    with ValkeyServer() as valkey:
        caches = [
            RedisCache(RedisClient(valkey.url, decode=False), "choices", tombstone_ttl=TOMBSTONE_TTL) for _ in range(2)
        ]
        here, there = (PreferenceService(store_with_users, cache) for cache in caches)
        await _wait_until_cached(caches[1], there, "ana")
        valkey.pause()
        async with here.edit("ana") as tx:
            await store_with_users.users.set_preferences(tx, "ana", [OFF])
        assert list(await there.get("ana") or ()) == [OFF]
        valkey.resume()
        await _wait_until_cached(caches[1], there, "ana")
        assert list(await there.get("ana") or ()) == list(await here.get("ana") or ()) == [OFF]
        for cache in caches:
            await cache.close()


async def _wait_until_cached(cache: Cache, preferences: PreferenceService, user_id: str) -> None:
    """Read until the result is cached: a key is not cached while its tombstone lasts."""

    async def is_cached() -> bool:
        await preferences.get(user_id)
        return user_id in await cache.get_many([user_id])

    await eventually(is_cached, within=20)


class _OvertakenStore:
    """A store in which `meanwhile` runs between a read and the use of its result."""

    def __init__(self, store: SqlStore, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._meanwhile = meanwhile
        self.users = self

    def read_snapshot(self) -> object:
        return self._store.read_snapshot()

    async def get(self, tx: object, user_id: str) -> User | None:
        return await self._store.users.get(tx, user_id)  # type: ignore[arg-type]  # forwarded unchanged

    async def get_preferences(self, tx: object, user_id: str) -> object:
        found = await self._store.users.get_preferences(tx, user_id)  # type: ignore[arg-type]  # forwarded unchanged
        await self._meanwhile()
        return found
