"""Queues and sources on a real Valkey, closed again after the test."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from bullmq import Queue as StockQueue  # type: ignore[import-untyped]  # ships no types

from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq import JobSource
from tidings.queues.lanes import BullQueue
from tidings.redis_link import RedisLink
from tidings.testing.valkey import ValkeyServer

PREFIX = "test"
#: the queue of the tests that hold ours against the stock class
PITFALL = "{test-pitfall}"

Sources = Callable[..., JobSource]


@pytest.fixture
async def bull(redis_url: str) -> AsyncIterator[BullQueue]:
    """An empty shared queue."""
    queue = BullQueue(RedisLink(redis_url), PREFIX, SystemClock())
    yield queue
    await queue.close()
    await queue.release()


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey that the test may kill, stop and empty."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def new_task() -> Callable[[], Task]:
    """A due task on the high lane."""

    def made() -> Task:
        now = SystemClock().now()
        return Task(new_id(now), TaskKind.DELIVER, new_id(now), Lane.HIGH, now)

    return made


@pytest.fixture
async def sources(redis_url: str) -> AsyncIterator[Sources]:
    """Makes sources of ours on the queue `PITFALL`; all are closed afterwards."""
    made: list[JobSource] = []
    link = RedisLink(redis_url)

    def make(**options: Any) -> JobSource:
        made.append(JobSource(link, PITFALL, **options))
        return made[-1]

    yield make
    for source in made:
        await source.close()
        await source.release()
    await link.close()


@pytest.fixture
async def stock(redis_url: str) -> AsyncIterator[StockQueue]:
    """The stock class on a queue of its own."""
    queue = StockQueue("stock", {"connection": redis_url})
    yield queue
    await queue.close()
