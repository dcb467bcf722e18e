"""The way out while the shared queue hangs: own work does not wait for it, and what it gives late is not lost."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from tidings.errors import BackendError
from tidings.model.priority import Lane
from tidings.model.task import Task
from tidings.ports.clock import SystemClock
from tidings.queues.fallback import FallbackQueue
from tidings.queues.local import LocalQueue
from tidings.testing.server import eventually


class Hanging(LocalQueue):
    """A shared queue that answers no call to publish, and lets no fetch go before it has heard of it."""

    shared = True

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

    async def take(self, lane: Lane, limit: int) -> Sequence[Task]:
        heard = asyncio.ensure_future(self.answers.wait())
        try:
            await asyncio.shield(heard)
        except asyncio.CancelledError:
            await heard
            raise
        return await super().take(lane, limit)


async def test_own_work_does_not_wait_for_a_shared_queue_that_hangs(new_task: Callable[[], Task]) -> None:
    shared = Hanging()
    queue = FallbackQueue(shared, SystemClock(), consumes=True)
    first, second = new_task(), new_task()
    async with asyncio.timeout(10):
        for task in (first, second):
            await queue.publish([task])
            assert await queue.take(Lane.HIGH, 5) == [task]
            await queue.done([task])
    shared.answers.set()
    await queue.close()
    await queue.release()


async def test_a_ping_in_vain_opens_the_way_out_before_anything_is_published() -> None:
    shared = Hanging()
    queue = FallbackQueue(shared, SystemClock(), consumes=True)
    with pytest.raises(BackendError):
        await queue.ping()
    assert queue.away

    async def is_back() -> bool:
        return not queue.away

    shared.answers.set()
    await eventually(is_back, within=10)
    await queue.close()
    await queue.release()


async def test_what_the_shared_queue_gives_to_a_taker_that_has_gone_is_the_next_ones(
    new_task: Callable[[], Task],
) -> None:
    shared = Hanging()
    queue = FallbackQueue(shared, SystemClock(), consumes=True)
    async with asyncio.timeout(10):
        taking = asyncio.create_task(queue.take(Lane.HIGH, 5))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        shared.answers.set()
        await shared.publish([task := new_task()])
        assert await queue.take(Lane.HIGH, 5) == [task]
    await queue.close()
    await queue.release()


async def test_what_was_fetched_and_not_begun_is_given_back_at_the_close(new_task: Callable[[], Task]) -> None:
    shared = Hanging()
    queue = FallbackQueue(shared, SystemClock(), consumes=True)
    async with asyncio.timeout(10):
        taking = asyncio.create_task(queue.take(Lane.HIGH, 5))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        shared.answers.set()
        await shared.publish([new_task()])
        while not (await shared.stats(Lane.HIGH)).active:
            await asyncio.sleep(0)
        await queue.close()
        assert (await shared.stats(Lane.HIGH)).waiting == 1
        assert await queue.take(Lane.HIGH, 5) == []
    await queue.release()
