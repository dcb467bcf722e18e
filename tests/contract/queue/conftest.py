"""Queues and sources on a real Valkey, closed again after the test."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.queues.lanes import BullQueue
from tidings.queues.redis_link import RedisLink
from tidings.testing.valkey import ValkeyServer

PREFIX = "test"


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
