"""The cache in Redis keeps the contract of `ports.cache`, also while Redis dies, hangs and comes back."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import pytest

from tidings.caches.redis import RedisCache
from tidings.ports.cache import Cache
from tidings.redis_link import RedisLink
from tidings.testing.contracts.cache_contract import LONG, CacheContract, SharedCacheContract
from tidings.testing.server import eventually
from tidings.testing.valkey import ValkeyServer

#: seconds that no call takes: a deadline for each of a few steps, on a machine that is slow
NEVER_SO_LONG = 6.0
#: so that what comes after an outage need not be waited for
SETTLE = timedelta(milliseconds=300)

Caches = Callable[..., RedisCache]


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey that the test may kill, stop and empty."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
async def caches() -> AsyncIterator[Caches]:
    """Makes instances of one cache; all are closed afterwards."""
    made: list[RedisCache] = []

    def make(url: str, **options: object) -> RedisCache:
        link = RedisLink(url, what="the cache", decode=False)
        made.append(RedisCache(link, "test-cache", **options))  # type: ignore[arg-type]  # the options of a test
        return made[-1]

    yield make
    for cache in made:
        await cache.close()


class TestRedisCache(CacheContract):
    @pytest.fixture
    def cache(self, redis_url: str, caches: Caches) -> Cache:
        return caches(redis_url, entries=self.ENTRIES)


class TestRedisCacheOfTwoProcesses(SharedCacheContract):
    @pytest.fixture
    def cache(self, redis_url: str, caches: Caches) -> Cache:
        return caches(redis_url)

    @pytest.fixture
    def other(self, redis_url: str, caches: Caches) -> Cache:
        return caches(redis_url)


async def test_a_value_that_is_asked_for_often_is_answered_without_redis(
    valkey: ValkeyServer, redis_url: str, caches: Caches
) -> None:
    cache = caches(redis_url)
    await cache.set_many({"a": b"1"}, ttl=LONG)
    await _fronted(cache, "a")
    before = _commands(valkey)
    for _ in range(500):
        assert await cache.get_many(["a"]) == {"a": b"1"}
    assert _commands(valkey) - before < 100


async def test_a_key_is_taken_in_again_once_it_has_settled(redis_url: str, caches: Caches) -> None:
    cache = caches(redis_url, settle=SETTLE)
    await cache.drop(["a"])
    await cache.drop_matching("b*")
    await _kept_again(cache, "a", "b1")


async def test_two_caches_in_one_redis_leave_each_other_alone(redis_url: str, caches: Caches) -> None:
    cache = caches(redis_url)
    another = RedisCache(RedisLink(redis_url, decode=False), "another-cache")
    try:
        await cache.set_many({"a": b"1"}, ttl=LONG)
        await another.set_many({"a": b"2"}, ttl=LONG)
        await another.drop_matching("*")
        assert await cache.get_many(["a"]) == {"a": b"1"}
    finally:
        await another.close()


@pytest.mark.parametrize("outage", ["killed", "hung"])
async def test_without_redis_everything_is_a_miss_and_nothing_an_error(
    own_valkey: ValkeyServer, caches: Caches, outage: str
) -> None:
    cache = caches(own_valkey.url, settle=SETTLE)
    await cache.set_many({"a": b"1"}, ttl=LONG)
    await _fronted(cache, "a")
    _begin(own_valkey, outage)
    started = time.monotonic()
    await cache.drop(["a"])
    await cache.drop_matching("b*")
    await cache.set_many({"c": b"1"}, ttl=LONG)
    assert await cache.get_many(["a", "c"]) == {}
    assert time.monotonic() - started < NEVER_SO_LONG
    again = time.monotonic()
    for _ in range(100):
        assert await cache.get_many(["a"]) == {}
        await cache.drop(["a"])
    assert time.monotonic() - again < NEVER_SO_LONG / 2, "what is known to be away is not waited for"
    _end(own_valkey, outage)
    await _kept_again(cache, "a", "c")


@pytest.mark.parametrize("outage", ["killed", "hung"])
async def test_a_drop_that_could_not_be_told_counts_everywhere_once_it_returns(
    own_valkey: ValkeyServer, caches: Caches, outage: str
) -> None:
    cache, other = caches(own_valkey.url, settle=SETTLE), caches(own_valkey.url, settle=SETTLE)
    await cache.set_many({"a": b"old"}, ttl=LONG)
    await _fronted(other, "a")
    _begin(own_valkey, outage)
    await cache.drop(["a"])
    assert await other.get_many(["a"]) == {}
    _end(own_valkey, outage)
    for one in (other, cache):
        await _is_back(one)
        assert await one.get_many(["a"]) == {}


async def test_an_old_state_of_redis_comes_back_without_its_values(own_valkey: ValkeyServer, caches: Caches) -> None:
    """As after a restart from a snapshot: what was dropped meanwhile is in there again."""
    cache = caches(own_valkey.url, settle=SETTLE)
    await cache.set_many({"a": b"old"}, ttl=LONG)
    await cache.get_many(["a"])
    snapshot = own_valkey.snapshot()
    await cache.drop(["a"])
    own_valkey.kill()
    assert await cache.get_many(["a"]) == {}
    own_valkey.restore(snapshot)
    own_valkey.start()
    await _is_back(cache)
    assert await cache.get_many(["a"]) == {}


async def test_a_lost_connection_makes_nobody_miss_a_drop(own_valkey: ValkeyServer, caches: Caches) -> None:
    cache, other = caches(own_valkey.url, settle=SETTLE), caches(own_valkey.url, settle=SETTLE)
    await cache.set_many({"a": b"old"}, ttl=LONG)
    await _fronted(other, "a")
    own_valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
    await cache.drop(["a"])

    async def forgotten() -> bool:
        return await other.get_many(["a"]) == {}

    await eventually(forgotten)
    await _is_back(other)
    assert await forgotten()


async def test_a_note_that_is_not_understood_empties_the_front(
    valkey: ValkeyServer, redis_url: str, caches: Caches
) -> None:
    cache = caches(redis_url)
    await cache.set_many({"a": b"1"}, ttl=LONG)
    await _fronted(cache, "a")
    valkey.command("DEL", "{test-cache}:a")
    assert await cache.get_many(["a"]) == {"a": b"1"}, "it comes from the front"
    valkey.command("PUBLISH", "{test-cache}dropped", "no note")

    async def forgotten() -> bool:
        return await cache.get_many(["a"]) == {}

    await eventually(forgotten)


async def test_closing_while_redis_hangs_does_not(own_valkey: ValkeyServer, caches: Caches) -> None:
    cache = caches(own_valkey.url)
    await cache.get_many(["a"])
    own_valkey.pause()
    await cache.get_many(["a"])
    async with asyncio.timeout(NEVER_SO_LONG):
        await cache.close()


def _begin(server: ValkeyServer, outage: str) -> None:
    if outage == "killed":
        server.kill()
    else:
        server.pause()


def _end(server: ValkeyServer, outage: str) -> None:
    if outage == "killed":
        server.start()
    else:
        server.resume()


def _commands(server: ValkeyServer) -> int:
    """Return how many commands the server has executed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
            if answer.endswith(b"\r\n") and b"total_commands_processed" in answer:
                break
    [line] = [line for line in answer.splitlines() if line.startswith(b"total_commands_processed:")]
    return int(line.partition(b":")[2])


async def _fronted(cache: RedisCache, key: str) -> None:
    """Wait until a value is in the front, and the front is trusted."""

    async def fronted() -> bool:
        assert key in await cache.get_many([key])
        return cache._hearing.listens and bool(cache._front.look([key]))

    await eventually(fronted, pause=0.01)


async def _is_back(cache: RedisCache) -> None:
    async def back() -> bool:
        await cache.get_many(["something"])
        return not cache.away

    await eventually(back, within=20)


async def _kept_again(cache: RedisCache, *keys: str) -> None:
    async def kept() -> bool:
        await cache.set_many(dict.fromkeys(keys, b"new"), ttl=LONG)
        return await cache.get_many(keys) == dict.fromkeys(keys, b"new")

    await eventually(kept, within=20)
