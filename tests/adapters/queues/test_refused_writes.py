"""A server that answers PING but refuses writes counts as one outage, until it accepts writes again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from tests.support.server import eventually

from tidings.caches.redis_cache import RedisCache
from tidings.errors import BackendError
from tidings.model.task import Task
from tidings.ports.clock import SystemClock
from tidings.presence.failover_presence import FailoverPresence
from tidings.presence.redis_presence import RedisPresence
from tidings.queues.bullmq_queue import BullMQQueue
from tidings.queues.factory import open_intake_consumer
from tidings.queues.failover_queue import PROBE_INTERVAL, FailoverQueue
from tidings.redis_client import RedisClient
from tidings.testing.contracts.presence_contract import make_departure, make_report
from tidings.testing.valkey import ValkeyServer

#: long enough for several probes
SEVERAL_PROBES = 3.5 * PROBE_INTERVAL

Log = Sequence[Mapping[str, object]]


def refuse_writes(server: ValkeyServer, *, on: bool = True) -> None:
    """Make a server refuse writes, as one that lost its replicas does; other commands succeed."""
    server.send_command("config", "set", "min-replicas-to-write", str(int(on)))


def health_events(logs: Log, backend: str) -> list[object]:
    return [entry["event"] for entry in logs if entry.get("backend") == backend]


@asynccontextmanager
async def failover_queue(server: ValkeyServer, *, is_consumer: bool) -> AsyncIterator[FailoverQueue]:
    queue = FailoverQueue(
        BullMQQueue(RedisClient(server.url), "test", SystemClock()), SystemClock(), is_consumer=is_consumer
    )
    yield queue
    await queue.stop()
    await queue.aclose()


@pytest.mark.parametrize("is_consumer", [True, False], ids=["worker", "api"])
async def test_a_queue_that_refuses_writes_is_one_outage(
    own_valkey: ValkeyServer, new_task: Callable[[], Task], is_consumer: bool
) -> None:
    async with failover_queue(own_valkey, is_consumer=is_consumer) as queue:
        await queue.publish([new_task()])
        with capture_logs() as logs:
            refuse_writes(own_valkey)
            until = asyncio.get_running_loop().time() + SEVERAL_PROBES
            while asyncio.get_running_loop().time() < until:
                try:
                    await queue.publish([new_task()])
                except BackendError:
                    assert not is_consumer
                await asyncio.sleep(0.05)
            assert queue.down_seconds is not None
            assert queue.down_seconds > SEVERAL_PROBES - 1
            refuse_writes(own_valkey, on=False)
            await eventually(lambda: _is_up(queue), within=20)
            await queue.publish([new_task()])
        assert health_events(logs, "queue") == ["backend_unavailable", "backend_recovered"]


async def _is_up(queue: FailoverQueue) -> bool:
    return queue.down_seconds is None


async def test_a_cache_that_refuses_writes_is_one_outage(own_valkey: ValkeyServer) -> None:
    cache = RedisCache(RedisClient(own_valkey.url, backend="cache", decode=False), "test")
    with capture_logs() as logs:
        refuse_writes(own_valkey)
        until = asyncio.get_running_loop().time() + SEVERAL_PROBES
        while asyncio.get_running_loop().time() < until:
            await cache.set_many({"key": b"value"}, ttl=timedelta(seconds=60))
            await asyncio.sleep(0.05)
        refuse_writes(own_valkey, on=False)

        async def is_up() -> bool:
            return not cache.is_down

        await eventually(is_up, within=20)
        await cache.close()
    assert health_events(logs, "cache") == ["backend_unavailable", "backend_recovered"]


async def test_a_presence_that_refuses_writes_is_one_outage(own_valkey: ValkeyServer) -> None:
    presence = FailoverPresence(RedisPresence(RedisClient(own_valkey.url, backend="presence"), "test"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(presence.close)
        logs = stack.enter_context(capture_logs())
        refuse_writes(own_valkey)
        until = asyncio.get_running_loop().time() + SEVERAL_PROBES
        while asyncio.get_running_loop().time() < until:
            await presence.report("node", [make_departure("ana")])
            await asyncio.sleep(0.05)
        refuse_writes(own_valkey, on=False)

        async def is_up() -> bool:
            await presence.report("node", [make_report("ana")])
            return not presence.is_down

        await eventually(is_up, within=20)
    assert health_events(logs, "presence") == ["backend_unavailable", "backend_recovered"]


async def test_a_job_queue_that_refuses_writes_is_one_outage(own_valkey: ValkeyServer) -> None:
    with capture_logs() as logs:
        async with open_intake_consumer(own_valkey.url, "test", jobs_per_second=0) as consumer:
            refuse_writes(own_valkey)
            receiving = asyncio.create_task(consumer.receive(1))

            async def has_logged(event: str) -> bool:
                return event in health_events(logs, "job_intake")

            await eventually(lambda: has_logged("backend_unavailable"), within=20)
            await asyncio.sleep(SEVERAL_PROBES)
            refuse_writes(own_valkey, on=False)
            await eventually(lambda: has_logged("backend_recovered"), within=20)
            receiving.cancel()
            await asyncio.wait([receiving])
    events = health_events(logs, "job_intake")
    assert events[: events.index("backend_recovered") + 1] == ["backend_unavailable", "backend_recovered"]
