"""The Redis cache satisfies the contract of `ports.cache`, also while Redis is down, hangs and recovers."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import pytest
from tests.support.server import eventually

from tidings.caches.redis_cache import RedisCache
from tidings.ports.cache import Cache
from tidings.redis_client import RedisClient
from tidings.testing.contracts.cache_contract import LONG_TTL, CacheContract, SharedCacheContract
from tidings.testing.valkey import ValkeyServer

#: seconds: an upper bound for a few calls that each have a deadline, on a slow machine
UPPER_BOUND = 6.0
#: short, so that tests need not wait long after an outage
TOMBSTONE_TTL = timedelta(milliseconds=300)

Caches = Callable[..., RedisCache]


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey server that the test may kill, pause and flush."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
async def caches() -> AsyncIterator[Caches]:
    """Return a factory for instances of one cache; all are closed afterwards."""
    created: list[RedisCache] = []

    def make(url: str, **options: object) -> RedisCache:
        redis_client = RedisClient(url, backend="cache", decode=False)
        created.append(RedisCache(redis_client, "test-cache", **options))  # type: ignore[arg-type]  # options chosen by a test
        return created[-1]

    yield make
    for cache in created:
        await cache.close()


class TestRedisCache(CacheContract):
    @pytest.fixture
    def cache(self, redis_url: str, caches: Caches) -> Cache:
        return caches(redis_url, max_entries=self.ENTRIES)


class TestRedisCacheOfTwoProcesses(SharedCacheContract):
    @pytest.fixture
    def cache(self, redis_url: str, caches: Caches) -> Cache:
        return caches(redis_url)

    @pytest.fixture
    def other(self, redis_url: str, caches: Caches) -> Cache:
        return caches(redis_url)


async def test_a_frequently_read_value_is_returned_without_redis(
    valkey: ValkeyServer, redis_url: str, caches: Caches
) -> None:
    cache = caches(redis_url)
    await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
    await _wait_until_in_front_cache(cache, "a")
    before = _count_commands(valkey)
    for _ in range(500):
        assert await cache.get_many(["a"]) == {"a": b"1"}
    assert _count_commands(valkey) - before < 100


async def test_a_dropped_key_is_cached_again_after_its_tombstone_expires(redis_url: str, caches: Caches) -> None:
    cache = caches(redis_url, tombstone_ttl=TOMBSTONE_TTL)
    await cache.drop(["a"])
    await cache.drop_matching("b*")
    await _wait_until_cached(cache, "a", "b1")


async def test_two_caches_in_one_redis_are_independent(redis_url: str, caches: Caches) -> None:
    cache = caches(redis_url)
    another = RedisCache(RedisClient(redis_url, decode=False), "another-cache")
    try:
        await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
        await another.set_many({"a": b"2"}, ttl=LONG_TTL)
        await another.drop_matching("*")
        assert await cache.get_many(["a"]) == {"a": b"1"}
    finally:
        await another.close()


@pytest.mark.parametrize("outage", ["killed", "hung"])
async def test_without_redis_every_read_is_a_miss_and_no_call_fails(
    own_valkey: ValkeyServer, caches: Caches, outage: str
) -> None:
    cache = caches(own_valkey.url, tombstone_ttl=TOMBSTONE_TTL)
    await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
    await _wait_until_in_front_cache(cache, "a")
    _start_outage(own_valkey, outage)
    started = time.monotonic()
    await cache.drop(["a"])
    await cache.drop_matching("b*")
    await cache.set_many({"c": b"1"}, ttl=LONG_TTL)
    assert await cache.get_many(["a", "c"]) == {}
    assert time.monotonic() - started < UPPER_BOUND
    second_start = time.monotonic()
    for _ in range(100):
        assert await cache.get_many(["a"]) == {}
        await cache.drop(["a"])
    assert time.monotonic() - second_start < UPPER_BOUND / 2, "calls must not wait while Redis is known to be down"
    _end_outage(own_valkey, outage)
    await _wait_until_cached(cache, "a", "c")


@pytest.mark.parametrize("outage", ["killed", "hung"])
async def test_an_unpublished_drop_takes_effect_everywhere_after_recovery(
    own_valkey: ValkeyServer, caches: Caches, outage: str
) -> None:
    cache, other = (
        caches(own_valkey.url, tombstone_ttl=TOMBSTONE_TTL),
        caches(own_valkey.url, tombstone_ttl=TOMBSTONE_TTL),
    )
    await cache.set_many({"a": b"old"}, ttl=LONG_TTL)
    await _wait_until_in_front_cache(other, "a")
    _start_outage(own_valkey, outage)
    await cache.drop(["a"])
    assert await other.get_many(["a"]) == {}
    _end_outage(own_valkey, outage)
    for instance in (other, cache):
        await _wait_until_available(instance)
        assert await instance.get_many(["a"]) == {}


async def test_values_of_a_restored_old_redis_snapshot_are_not_returned(
    own_valkey: ValkeyServer, caches: Caches
) -> None:
    """A restart from a snapshot brings back values that were dropped in the meantime."""
    cache = caches(own_valkey.url, tombstone_ttl=TOMBSTONE_TTL)
    await cache.set_many({"a": b"old"}, ttl=LONG_TTL)
    await cache.get_many(["a"])
    snapshot = own_valkey.snapshot()
    await cache.drop(["a"])
    own_valkey.kill()
    assert await cache.get_many(["a"]) == {}
    own_valkey.restore(snapshot)
    own_valkey.start()
    await _wait_until_available(cache)
    assert await cache.get_many(["a"]) == {}


async def test_no_instance_misses_a_drop_because_of_a_lost_connection(own_valkey: ValkeyServer, caches: Caches) -> None:
    cache, other = (
        caches(own_valkey.url, tombstone_ttl=TOMBSTONE_TTL),
        caches(own_valkey.url, tombstone_ttl=TOMBSTONE_TTL),
    )
    await cache.set_many({"a": b"old"}, ttl=LONG_TTL)
    await _wait_until_in_front_cache(other, "a")
    own_valkey.send_command("CLIENT", "KILL", "TYPE", "pubsub")
    await cache.drop(["a"])

    async def is_dropped() -> bool:
        return await other.get_many(["a"]) == {}

    await eventually(is_dropped)
    await _wait_until_available(other)
    assert await is_dropped()


async def test_an_undecodable_invalidation_empties_the_front_cache(
    valkey: ValkeyServer, redis_url: str, caches: Caches
) -> None:
    cache = caches(redis_url)
    await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
    await _wait_until_in_front_cache(cache, "a")
    valkey.send_command("DEL", "{test-cache}:a")
    assert await cache.get_many(["a"]) == {"a": b"1"}, "the value comes from the front cache"
    valkey.send_command("PUBLISH", "{test-cache}dropped", "not an invalidation")

    async def is_dropped() -> bool:
        return await cache.get_many(["a"]) == {}

    await eventually(is_dropped)


async def test_closing_does_not_hang_while_redis_hangs(own_valkey: ValkeyServer, caches: Caches) -> None:
    cache = caches(own_valkey.url)
    await cache.get_many(["a"])
    own_valkey.pause()
    await cache.get_many(["a"])
    async with asyncio.timeout(UPPER_BOUND):
        await cache.close()


def _start_outage(server: ValkeyServer, outage: str) -> None:
    if outage == "killed":
        server.kill()
    else:
        server.pause()


def _end_outage(server: ValkeyServer, outage: str) -> None:
    if outage == "killed":
        server.start()
    else:
        server.resume()


def _count_commands(server: ValkeyServer) -> int:
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


async def _wait_until_in_front_cache(cache: RedisCache, key: str) -> None:
    """Wait until a value is in the front cache and the invalidation listener is current."""

    async def is_in_front_cache() -> bool:
        assert key in await cache.get_many([key])
        return cache._listener.is_current and bool(cache._front.peek([key]))

    await eventually(is_in_front_cache, pause=0.01)


async def _wait_until_available(cache: RedisCache) -> None:
    async def is_available() -> bool:
        await cache.get_many(["something"])
        return not cache.is_down

    await eventually(is_available, within=20)


async def _wait_until_cached(cache: RedisCache, *keys: str) -> None:
    async def is_cached() -> bool:
        await cache.set_many(dict.fromkeys(keys, b"new"), ttl=LONG_TTL)
        return await cache.get_many(keys) == dict.fromkeys(keys, b"new")

    await eventually(is_cached, within=20)
