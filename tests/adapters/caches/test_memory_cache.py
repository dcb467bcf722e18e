"""The in-process cache satisfies the contract of `ports.cache`."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tidings.caches.memory_cache import MemoryCache
from tidings.ports.cache import Cache
from tidings.testing.contracts.cache_contract import CacheContract

MINUTE = timedelta(minutes=1)


class ManualTimer:
    """A timer that advances only when a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timer() -> ManualTimer:
    return ManualTimer()


class TestMemoryCache(CacheContract):
    @pytest.fixture
    async def cache(self) -> AsyncIterator[Cache]:
        cache = MemoryCache(max_entries=self.ENTRIES)
        yield cache
        await cache.close()


async def test_time_to_live_is_exact(timer: ManualTimer) -> None:
    cache = MemoryCache(timer=timer)
    await cache.set_many({"a": b"1"}, ttl=MINUTE)
    timer.now += 59.9
    assert await cache.get_many(["a"]) == {"a": b"1"}
    timer.now += 0.1
    assert await cache.get_many(["a"]) == {}


async def test_a_dropped_key_is_cached_again_after_its_tombstone_expires(timer: ManualTimer) -> None:
    cache = MemoryCache(tombstone_ttl=timedelta(seconds=5), timer=timer)
    await cache.drop(["a"])
    await cache.drop_matching("page:*")
    timer.now += 4.9
    await cache.set_many({"a": b"1", "page:1": b"1"}, ttl=MINUTE)
    assert await cache.get_many(["a", "page:1"]) == {}
    timer.now += 0.2
    await cache.set_many({"a": b"1", "page:1": b"1"}, ttl=MINUTE)
    assert await cache.get_many(["a", "page:1"]) == {"a": b"1", "page:1": b"1"}


async def test_a_cache_with_too_many_tombstones_stores_nothing(timer: ManualTimer) -> None:
    cache = MemoryCache(max_entries=10, tombstone_ttl=timedelta(seconds=5), timer=timer)
    await cache.drop([f"k{number}" for number in range(11)])
    await cache.set_many({"k0": b"old", "other": b"1"}, ttl=MINUTE)
    assert await cache.get_many(["k0", "other"]) == {}
    timer.now += 5.1
    await cache.set_many({"other": b"1"}, ttl=MINUTE)
    assert await cache.get_many(["other"]) == {"other": b"1"}


async def test_bytes_are_bounded_and_an_oversized_value_evicts_nothing(timer: ManualTimer) -> None:
    cache = MemoryCache(max_bytes=1000, timer=timer)
    for number in range(10):
        await cache.set_many({f"k{number}": bytes(300)}, ttl=MINUTE)
    held = await cache.get_many([f"k{number}" for number in range(10)])
    assert set(held) == {"k7", "k8", "k9"}
    await cache.set_many({"huge": bytes(2000)}, ttl=MINUTE)
    assert len(await cache.get_many(["k7", "k8", "k9", "huge"])) == 3


async def test_a_value_too_large_to_keep_removes_the_old_value(timer: ManualTimer) -> None:
    cache = MemoryCache(max_bytes=1000, timer=timer)
    await cache.set_many({"a": b"1"}, ttl=MINUTE)
    await cache.set_many({"a": bytes(2000)}, ttl=MINUTE)
    assert await cache.get_many(["a"]) == {}
