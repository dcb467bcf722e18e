"""The in-memory queue satisfies the contract of `ports.queue` and waits for due tasks without polling."""

import asyncio
from datetime import datetime, timedelta

import pytest

from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.queues.memory_queue import MemoryQueue
from tidings.testing.clock import START, FrozenClock
from tidings.testing.contracts.queue_contract import QueueContract


class TestMemoryQueue(QueueContract):
    @pytest.fixture
    def queue(self) -> MemoryQueue:
        return MemoryQueue(SystemClock())


class CountingClock(FrozenClock):
    read_count = 0

    def now(self) -> datetime:
        self.read_count += 1
        return super().now()


def task(due_at: datetime, name: str = "task") -> Task:
    return Task(name, TaskKind.DELIVER, "batch", Lane.LOW, due_at)


async def test_a_far_task_is_waited_for_without_polling() -> None:
    clock = CountingClock()
    queue = MemoryQueue(clock)
    await queue.publish([task(START + timedelta(days=300))])
    clock.read_count = 0
    receiving = asyncio.create_task(queue.receive(Lane.LOW, 9))
    await asyncio.wait([receiving], timeout=0.1)
    assert clock.read_count == 1
    await queue.stop()
    assert await receiving == []


async def test_tasks_that_became_due_meanwhile_are_returned_with_the_next_task() -> None:
    clock = FrozenClock()
    queue = MemoryQueue(clock)
    far, near = task(START + timedelta(days=300), "far"), task(START + timedelta(days=301), "near")
    await queue.publish([far])
    receiving = asyncio.create_task(queue.receive(Lane.LOW, 9))
    await asyncio.wait([receiving], timeout=0.01)
    clock.advance(timedelta(days=302))
    await queue.publish([near])
    assert await receiving == [far, near]


async def test_a_new_queue_has_a_new_epoch() -> None:
    clock = FrozenClock()
    assert await MemoryQueue(clock).instance_id() != await MemoryQueue(clock).instance_id()
