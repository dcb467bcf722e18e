"""Local fallback while the shared queue hangs: local work continues, and tasks fetched late are not lost."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from tests.support.server import eventually

from tidings.errors import BackendError
from tidings.model.priority import Lane
from tidings.model.task import Task
from tidings.ports.clock import SystemClock
from tidings.queues.failover_queue import FailoverQueue
from tidings.queues.memory_queue import MemoryQueue


class HangingQueue(MemoryQueue):
    """A shared queue whose `publish` fails and whose `receive` blocks, even when cancelled, until it answers."""

    is_shared = True

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.answers = asyncio.Event()

    async def publish(self, tasks: Sequence[Task]) -> None:
        if not self.answers.is_set():
            raise BackendError("the queue does not answer in time")
        await super().publish(tasks)

    async def ping(self) -> None:
        if not self.answers.is_set():
            raise BackendError("the queue does not answer in time")

    async def receive(self, lane: Lane, limit: int) -> Sequence[Task]:
        answered = asyncio.ensure_future(self.answers.wait())
        try:
            await asyncio.shield(answered)
        except asyncio.CancelledError:
            await answered
            raise
        return await super().receive(lane, limit)


async def test_local_work_does_not_wait_for_a_hanging_shared_queue(new_task: Callable[[], Task]) -> None:
    shared = HangingQueue()
    queue = FailoverQueue(shared, SystemClock(), is_consumer=True)
    first, second = new_task(), new_task()
    async with asyncio.timeout(10):
        for task in (first, second):
            await queue.publish([task])
            assert await queue.receive(Lane.HIGH, 5) == [task]
            await queue.ack([task])
    shared.answers.set()
    await queue.stop()
    await queue.aclose()


async def test_a_failed_ping_starts_the_local_fallback_before_any_publish() -> None:
    shared = HangingQueue()
    queue = FailoverQueue(shared, SystemClock(), is_consumer=True)
    with pytest.raises(BackendError):
        await queue.ping()
    assert queue.is_down

    async def is_available() -> bool:
        return not queue.is_down

    shared.answers.set()
    await eventually(is_available, within=10)
    await queue.stop()
    await queue.aclose()


async def test_tasks_fetched_for_a_cancelled_receive_go_to_the_next_receive(
    new_task: Callable[[], Task],
) -> None:
    shared = HangingQueue()
    queue = FailoverQueue(shared, SystemClock(), is_consumer=True)
    async with asyncio.timeout(10):
        receiving = asyncio.create_task(queue.receive(Lane.HIGH, 5))
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        shared.answers.set()
        await shared.publish([task := new_task()])
        assert await queue.receive(Lane.HIGH, 5) == [task]
    await queue.stop()
    await queue.aclose()


async def test_fetched_tasks_that_were_not_started_are_returned_on_stop(new_task: Callable[[], Task]) -> None:
    shared = HangingQueue()
    queue = FailoverQueue(shared, SystemClock(), is_consumer=True)
    async with asyncio.timeout(10):
        receiving = asyncio.create_task(queue.receive(Lane.HIGH, 5))
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        shared.answers.set()
        await shared.publish([new_task()])
        while not (await shared.stats(Lane.HIGH)).active:
            await asyncio.sleep(0)
        await queue.stop()
        assert (await shared.stats(Lane.HIGH)).waiting == 1
        assert await queue.receive(Lane.HIGH, 5) == []
    await queue.aclose()
