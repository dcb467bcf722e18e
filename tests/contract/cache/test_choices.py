"""Users' choices as they are shown: from a cache, and never older than the last change, whoever made it and how."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from tidings.caches.local import LocalCache
from tidings.caches.redis import RedisCache
from tidings.flow.choices import KEPT_FOR, KEPT_IF_READ_WITHIN, Choices
from tidings.model.user import Preference, User
from tidings.ports.cache import Cache
from tidings.redis_link import RedisLink
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.server import eventually
from tidings.testing.valkey import ValkeyServer

ON, OFF = Preference("NEWS", "webpush", True), Preference("NEWS", "webpush", False)
#: so that what was dropped is taken in again within a test
SETTLE = timedelta(milliseconds=50)


@pytest.fixture
async def known(store: SqlStore, clock: FrozenClock) -> SqlStore:
    """A store with the users ana and ben."""
    async with store.begin() as tx:
        await store.users.upsert(tx, [User("ana"), User("ben")], clock.now())
    return store


@pytest.fixture
async def two(redis_url: str) -> AsyncIterator[tuple[Cache, Cache]]:
    """The cache of two processes."""
    made = [RedisCache(RedisLink(redis_url, decode=False), "choices", settle=SETTLE) for _ in range(2)]
    yield made[0], made[1]
    for cache in made:
        await cache.close()


async def test_a_second_look_costs_no_statement(known: SqlStore) -> None:
    choices = Choices(known, LocalCache())
    assert await choices.of("ana") == ()
    before = known.statements
    assert await choices.of("ana") == ()
    assert known.statements == before


async def test_without_a_cache_every_look_is_at_the_database(known: SqlStore) -> None:
    choices = Choices(known, None)
    async with choices.changing("ana") as tx:
        await known.users.set_preferences(tx, "ana", [OFF])
    assert list(await choices.of("ana") or ()) == [OFF]
    before = known.statements
    await choices.of("ana")
    assert known.statements == before + 2


async def test_nobody_is_known_before_they_are(known: SqlStore, clock: FrozenClock) -> None:
    choices = Choices(known, LocalCache())
    assert await choices.of("cleo") is None
    async with known.begin() as tx:
        await known.users.upsert(tx, [User("cleo")], clock.now())
    assert await choices.of("cleo") == ()


@pytest.mark.parametrize("commits", [True, False])
async def test_a_change_is_seen_once_it_is_committed_and_not_before(known: SqlStore, commits: bool) -> None:
    choices = Choices(known, LocalCache(settle=timedelta()))
    assert await choices.of("ana") == ()
    try:
        async with choices.changing("ana") as tx:
            await known.users.set_preferences(tx, "ana", [OFF])
            assert await choices.of("ana") == (), "it is kept again, as it still is"
            if not commits:
                raise asyncio.CancelledError
    except asyncio.CancelledError:
        pass
    assert list(await choices.of("ana") or ()) == ([OFF] if commits else [])


async def test_an_erased_user_is_unknown_at_once(known: SqlStore) -> None:
    choices = Choices(known, LocalCache())
    assert await choices.of("ana") == ()
    async with choices.changing("ana") as tx:
        assert await known.users.erase(tx, "ana")
    assert await choices.of("ana") is None


async def test_what_took_too_long_to_read_is_not_kept(known: SqlStore) -> None:
    ticks = iter([0.0, KEPT_IF_READ_WITHIN, 10.0, 10.0 + KEPT_IF_READ_WITHIN / 2])
    choices = Choices(known, cache := LocalCache(), timer=lambda: next(ticks))
    await choices.of("ana")
    assert await cache.get_many(["ana"]) == {}
    await choices.of("ana")
    assert list(await cache.get_many(["ana"])) == ["ana"]


async def test_what_another_version_kept_is_read_again(known: SqlStore) -> None:
    choices = Choices(known, cache := LocalCache())
    await cache.set_many({"ana": b"\xc1 no message pack"}, ttl=KEPT_FOR)
    assert await choices.of("ana") == ()


async def test_a_change_in_one_process_is_seen_in_another(known: SqlStore, two: tuple[Cache, Cache]) -> None:
    here, there = (Choices(known, cache) for cache in two)
    for wanted in (OFF, ON, OFF, ON):
        await _kept(two[1], there, "ana")
        async with here.changing("ana") as tx:
            await known.users.set_preferences(tx, "ana", [wanted])

        async def seen(wanted: Preference = wanted) -> bool:
            return list(await there.of("ana") or ()) == [wanted]

        # the moment that a note takes on its way
        await eventually(seen, within=2.0, pause=0)
        assert list(await here.of("ana") or ()) == [wanted]


async def test_a_reader_that_was_overtaken_by_a_change_leaves_nothing_old(
    known: SqlStore, two: tuple[Cache, Cache]
) -> None:
    here = Choices(known, two[0])

    async def change() -> None:
        async with here.changing("ana") as tx:
            await known.users.set_preferences(tx, "ana", [OFF])

    there = Choices(_Interrupted(known, change), two[1])  # type: ignore[arg-type]  # a store whose reads are overtaken
    assert list(await there.of("ana") or ()) == [], "it was read before the change"
    assert list(await here.of("ana") or ()) == [OFF]
    assert list(await Choices(known, two[1]).of("ana") or ()) == [OFF]


async def test_a_change_while_redis_is_away_is_seen_when_it_is_back(known: SqlStore) -> None:
    with ValkeyServer() as valkey:
        made = [RedisCache(RedisLink(valkey.url, decode=False), "choices", settle=SETTLE) for _ in range(2)]
        here, there = (Choices(known, cache) for cache in made)
        await _kept(made[1], there, "ana")
        valkey.pause()
        async with here.changing("ana") as tx:
            await known.users.set_preferences(tx, "ana", [OFF])
        assert list(await there.of("ana") or ()) == [OFF]
        valkey.resume()
        await _kept(made[1], there, "ana")
        assert list(await there.of("ana") or ()) == list(await here.of("ana") or ()) == [OFF]
        for cache in made:
            await cache.close()


async def _kept(cache: Cache, choices: Choices, user_id: str) -> None:
    """Look until the answer is kept: what was just dropped is not at first."""

    async def kept() -> bool:
        await choices.of(user_id)
        return user_id in await cache.get_many([user_id])

    await eventually(kept, within=20)


class _Interrupted:
    """A store in which something happens between what is read and what becomes of it."""

    def __init__(self, store: SqlStore, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._meanwhile = meanwhile
        self.users = self

    def read(self) -> object:
        return self._store.read()

    async def get(self, tx: object, user_id: str) -> User | None:
        return await self._store.users.get(tx, user_id)  # type: ignore[arg-type]  # passed on

    async def preferences(self, tx: object, user_id: str) -> object:
        found = await self._store.users.preferences(tx, user_id)  # type: ignore[arg-type]  # passed on
        await self._meanwhile()
        return found
