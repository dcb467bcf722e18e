"""Queues and BullMQ consumers on a Valkey server; all are closed after the test."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from bullmq import Queue as StockQueue  # type: ignore[import-untyped]  # ships no types

from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq_consumer import BullMQConsumer
from tidings.queues.bullmq_queue import BullMQQueue
from tidings.redis_client import RedisClient
from tidings.testing.valkey import ValkeyServer

PREFIX = "test"
#: the queue of the tests that compare `BullMQConsumer` with the stock class
PITFALL = "{test-pitfall}"

Consumers = Callable[..., BullMQConsumer]


@pytest.fixture
async def bull(redis_url: str) -> AsyncIterator[BullMQQueue]:
    """An empty shared queue."""
    queue = BullMQQueue(RedisClient(redis_url), PREFIX, SystemClock())
    yield queue
    await queue.stop()
    await queue.aclose()


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey server that the test may kill, pause and flush."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def new_task() -> Callable[[], Task]:
    """Return a factory for due tasks on the high lane."""

    def create() -> Task:
        now = SystemClock().now()
        return Task(new_id(now), TaskKind.DELIVER, new_id(now), Lane.HIGH, now)

    return create


@pytest.fixture
async def consumers(redis_url: str) -> AsyncIterator[Consumers]:
    """Return a factory for consumers on the queue `PITFALL`; all are closed afterwards."""
    created: list[BullMQConsumer] = []
    redis_client = RedisClient(redis_url)

    def make(**options: Any) -> BullMQConsumer:
        created.append(BullMQConsumer(redis_client, PITFALL, **options))
        return created[-1]

    yield make
    for consumer in created:
        await consumer.stop()
        await consumer.aclose()
    await redis_client.close()


@pytest.fixture
async def stock(redis_url: str) -> AsyncIterator[StockQueue]:
    """The stock class on a queue of its own."""
    queue = StockQueue("stock", {"connection": redis_url})
    yield queue
    await queue.close()
