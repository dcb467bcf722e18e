"""Rate limits in Redis: shared by processes, and counted per process while Redis is unavailable."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from tidings.ports.rate_limits import RateLimit, RateLimiter
from tidings.rate_limits.factory import create_rate_limiter
from tidings.rate_limits.memory_rate_limiter import MemoryRateLimiter
from tidings.rate_limits.redis_rate_limiter import PROBE_INTERVAL, RedisRateLimiter
from tidings.redis_client import RedisClient
from tidings.testing.clock import FrozenClock
from tidings.testing.valkey import ValkeyServer

#: of a period that no test waits for
RATE = RateLimit(5, 3600)
Limiters = Callable[[str], RedisRateLimiter]


class Timer:
    """Monotonic seconds that a test advances."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
async def limiters(timer: Timer, clock: FrozenClock) -> AsyncIterator[Limiters]:
    """Return a factory of limiters, one for each process."""
    created: list[RedisRateLimiter] = []

    def make(url: str) -> RedisRateLimiter:
        redis_client = RedisClient(url, backend="rate_limits")
        created.append(RedisRateLimiter(redis_client, "test", MemoryRateLimiter(clock), timer=timer))
        return created[-1]

    yield make
    for limiter in created:
        await limiter.close()


async def count_allowed(*processes: RateLimiter, calls: int, key: str = "ana", name: str = "read") -> int:
    decisions = await asyncio.gather(
        *(processes[number % len(processes)].consume(name, key, RATE) for number in range(calls))
    )
    return sum(decision.is_allowed for decision in decisions)


async def test_processes_share_a_limit(redis_url: str, limiters: Limiters) -> None:
    assert await count_allowed(limiters(redis_url), limiters(redis_url), limiters(redis_url), calls=30) == RATE.calls


async def test_callers_and_limits_are_counted_separately(redis_url: str, limiters: Limiters) -> None:
    process = limiters(redis_url)
    assert await count_allowed(process, calls=9) == RATE.calls
    assert await count_allowed(process, calls=9, key="ben") == RATE.calls
    assert await count_allowed(process, calls=9, name="change") == RATE.calls


async def test_a_decision_has_the_numbers_of_the_headers(redis_url: str, limiters: Limiters) -> None:
    process = limiters(redis_url)
    first = await process.consume("read", "ana", RATE)
    assert (first.is_allowed, first.remaining, first.retry_after) == (True, 4, 0.0)
    assert first.reset_after == pytest.approx(720, abs=1)
    for _ in range(4):
        await process.consume("read", "ana", RATE)
    rejected = await process.consume("read", "ana", RATE)
    assert (rejected.is_allowed, rejected.remaining) == (False, 0)
    assert rejected.retry_after == pytest.approx(720, abs=5)


async def test_capacity_is_restored_at_the_rate_and_no_key_stays(redis_url: str, limiters: Limiters) -> None:
    process = limiters(redis_url)
    quick = RateLimit(2, 0.2)
    decisions = [await process.consume("quick", "ana", quick) for _ in range(3)]
    assert [decision.is_allowed for decision in decisions] == [True, True, False]
    await asyncio.sleep(decisions[-1].retry_after + 0.01)
    assert (await process.consume("quick", "ana", quick)).is_allowed
    await asyncio.sleep(0.3)
    assert await process._redis_client.client.keys("*") == []


async def test_no_key_in_redis_contains_the_caller(redis_url: str, limiters: Limiters) -> None:
    process = limiters(redis_url)
    await process.consume("read", "ana@example.org", RATE)
    [key] = await process._redis_client.client.keys("*")
    assert str(key).startswith("{test-limits}:read:")
    assert "ana" not in str(key)


async def test_during_an_outage_each_process_counts_and_afterwards_the_limit_is_shared_again(
    limiters: Limiters, timer: Timer
) -> None:
    with ValkeyServer() as server:
        first, second = limiters(server.url), limiters(server.url)
        await first.consume("read", "ana", RATE)
        server.kill()
        with capture_logs() as logs:
            assert await count_allowed(first, calls=9) == RATE.calls
            assert await count_allowed(second, calls=9) == RATE.calls
        assert [(line["event"], line["backend"]) for line in logs] == [("backend_unavailable", "rate_limits")] * 2
        server.start()
        timer.seconds += PROBE_INTERVAL
        with capture_logs() as logs:
            for process in (first, second):
                await process.consume("read", "ben", RATE)
            assert await count_allowed(first, second, calls=20, key="ben") == RATE.calls - 2
        assert {line["event"] for line in logs} == {"backend_recovered"}


def test_without_redis_each_process_counts_by_itself(clock: FrozenClock) -> None:
    assert isinstance(create_rate_limiter(None, "test", clock), MemoryRateLimiter)
