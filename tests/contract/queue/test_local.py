"""The embedded queue keeps the contract of `ports.queue`, and waits without looking at the clock again and again."""

import asyncio
from datetime import datetime, timedelta

import pytest

from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.queues.local import LocalQueue
from tidings.testing.clock import START, FrozenClock
from tidings.testing.contracts.queue_contract import QueueContract


class TestLocalQueue(QueueContract):
    @pytest.fixture
    def queue(self) -> LocalQueue:
        return LocalQueue(SystemClock())


class CountedClock(FrozenClock):
    looks = 0

    def now(self) -> datetime:
        self.looks += 1
        return super().now()


def task(due_at: datetime, name: str = "task") -> Task:
    return Task(name, TaskKind.DELIVER, "batch", Lane.LOW, due_at)


async def test_a_far_task_is_waited_for_without_polling() -> None:
    clock = CountedClock()
    queue = LocalQueue(clock)
    await queue.publish([task(START + timedelta(days=300))])
    clock.looks = 0
    taking = asyncio.create_task(queue.take(Lane.LOW, 9))
    await asyncio.wait([taking], timeout=0.1)
    assert clock.looks == 1
    await queue.close()
    assert await taking == []


async def test_what_came_due_meanwhile_goes_out_with_the_next_task() -> None:
    clock = FrozenClock()
    queue = LocalQueue(clock)
    far, near = task(START + timedelta(days=300), "far"), task(START + timedelta(days=301), "near")
    await queue.publish([far])
    taking = asyncio.create_task(queue.take(Lane.LOW, 9))
    await asyncio.wait([taking], timeout=0.01)
    clock.advance(timedelta(days=302))
    await queue.publish([near])
    assert await taking == [far, near]


async def test_the_depth_of_a_lane_counts_what_waits() -> None:
    queue = LocalQueue(FrozenClock())
    await queue.publish([task(START, "one"), task(START, "two")])
    assert (queue.depth(Lane.LOW), queue.depth(Lane.HIGH)) == (2, 0)
    await queue.take(Lane.LOW, 1)
    assert queue.depth(Lane.LOW) == 1


async def test_a_new_queue_has_a_new_epoch() -> None:
    clock = FrozenClock()
    assert await LocalQueue(clock).epoch() != await LocalQueue(clock).epoch()
