"""Suite for `ports.queue.Queue`: lanes, due times, deduplication, counts, closing. It uses the system clock."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from tidings.model.ids import new_id
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.ports.queue import Queue

#: timeout in seconds that is reached only if the adapter hangs
RECEIVE_TIMEOUT = 10.0
#: seconds to wait to show that a queue does not deliver too early
A_MOMENT = 0.05


class QueueContract:
    """Provide a fixture `queue`: an empty queue of the adapter on the system clock."""

    async def test_a_task_comes_out_as_it_went_in(self, queue: Queue) -> None:
        task = self._make_task(Lane.HIGH)
        await queue.publish([task])
        assert await self._receive(queue, Lane.HIGH) == [task]

    @pytest.mark.parametrize("kind", TaskKind)
    async def test_every_kind_of_task_comes_out_as_it_went_in(self, queue: Queue, kind: TaskKind) -> None:
        task = replace(self._make_task(Lane.NORMAL), kind=kind, generation=7)
        await queue.publish([task])
        assert await self._receive(queue, Lane.NORMAL) == [task]

    async def test_due_tasks_come_in_the_order_they_were_published(self, queue: Queue) -> None:
        tasks = [self._make_task(Lane.LOW, due_in=-seconds) for seconds in (1, 9, 5, 5, 5)]
        await queue.publish(tasks[:3])
        await queue.publish(tasks[3:])
        assert await self._receive(queue, Lane.LOW, limit=9) == tasks

    async def test_fan_outs_published_together_all_come_out(self, queue: Queue) -> None:
        tasks = [replace(self._make_task(Lane.HIGH), kind=TaskKind.FAN_OUT) for _ in range(120)]
        await queue.publish(tasks)
        taken: list[Task] = []
        while len(taken) < len(tasks):
            taken += await self._receive(queue, Lane.HIGH, limit=1)
        assert taken == tasks

    async def test_one_task_of_many_that_travelled_together_comes_again_alone(self, queue: Queue) -> None:
        tasks = [replace(self._make_task(Lane.HIGH), kind=TaskKind.FAN_OUT) for _ in range(5)]
        await queue.publish(tasks)
        assert await self._receive(queue, Lane.HIGH, limit=5) == tasks
        await queue.nack([tasks[3]], retry_at=SystemClock().now(), why="of a test")
        await queue.ack([*tasks[:3], tasks[4]])
        assert await self._receive(queue, Lane.HIGH, limit=5) == [tasks[3]]

    async def test_a_task_that_waits_is_not_put_in_a_second_time(self, queue: Queue) -> None:
        task, after = self._make_task(Lane.HIGH), self._make_task(Lane.HIGH)
        await queue.publish([task, task])
        await queue.publish([task])
        await queue.publish([after])
        assert await self._receive(queue, Lane.HIGH, limit=9) == [task, after]

    async def test_the_next_generation_of_a_task_is_another_task(self, queue: Queue) -> None:
        task = self._make_task(Lane.HIGH)
        await queue.publish([task])
        await queue.ack(await self._receive(queue, Lane.HIGH))
        repeat = replace(task, generation=1)
        await queue.publish([repeat])
        assert await self._receive(queue, Lane.HIGH) == [repeat]

    async def test_a_task_given_back_comes_again_at_its_time(self, queue: Queue) -> None:
        task = self._make_task(Lane.HIGH)
        await queue.publish([task])
        at = SystemClock().now() + timedelta(seconds=0.2)
        await queue.nack(await self._receive(queue, Lane.HIGH), retry_at=at, why="of a test")
        assert await self._receive(queue, Lane.HIGH) == [task]
        # the shared queue has a resolution of milliseconds
        assert SystemClock().now() >= at - timedelta(milliseconds=1)

    async def test_a_task_that_fails_four_times_is_given_up(self, queue: Queue) -> None:
        task = self._make_task(Lane.HIGH)
        await queue.publish([task])
        for _ in range(4):
            assert await self._receive(queue, Lane.HIGH) == [task]
            await queue.nack([task], retry_at=SystemClock().now(), why="of a test")
        stats = await queue.stats(Lane.HIGH)
        assert (stats.waiting, stats.delayed, stats.active, stats.failed) == (0, 0, 0, 1)

    async def test_what_was_not_taken_can_be_settled_without_harm(self, queue: Queue) -> None:
        await queue.ack([self._make_task(Lane.HIGH)])
        await queue.nack([self._make_task(Lane.HIGH)], retry_at=SystemClock().now(), why="of a test")
        stats = await queue.stats(Lane.HIGH)
        assert (stats.waiting, stats.delayed, stats.completed) == (0, 0, 0)

    async def test_stats_follow_a_task_on_its_way(self, queue: Queue) -> None:
        before = SystemClock().now() - timedelta(milliseconds=1)
        await queue.publish(
            [self._make_task(Lane.LOW), self._make_task(Lane.LOW, due_in=3600), self._make_task(Lane.HIGH)]
        )
        await queue.publish([self._make_task(Lane.LOW)])
        waiting = await queue.stats(Lane.LOW)
        assert (waiting.waiting, waiting.delayed, waiting.active, waiting.completed) == (2, 1, 0, 0)
        assert waiting.oldest_published_at is not None
        assert before <= waiting.oldest_published_at <= SystemClock().now()
        tasks = await self._receive(queue, Lane.LOW, limit=2)
        active = await queue.stats(Lane.LOW)
        assert (active.waiting, active.active, active.oldest_published_at, active.rate) == (0, 2, None, 0)
        await queue.ack(tasks)
        done = await queue.stats(Lane.LOW)
        assert (done.active, done.completed, done.failed) == (0, 2, 0)
        assert done.rate == pytest.approx(2 / 60)

    async def test_no_more_are_handed_out_than_asked_for(self, queue: Queue) -> None:
        tasks = [self._make_task(Lane.LOW) for _ in range(3)]
        await queue.publish(tasks)
        assert len(await self._receive(queue, Lane.LOW, limit=2)) == 2
        assert len(await self._receive(queue, Lane.LOW, limit=2)) == 1

    @pytest.mark.parametrize("lane", LANES)
    async def test_lanes_are_independent(self, queue: Queue, lane: Lane) -> None:
        await queue.publish([self._make_task(other) for other in LANES])
        assert [task.lane for task in await self._receive(queue, lane, limit=9)] == [lane]

    async def test_a_taker_waits_for_a_task(self, queue: Queue) -> None:
        taking = asyncio.create_task(self._receive(queue, Lane.HIGH))
        await asyncio.wait([taking], timeout=A_MOMENT)
        assert not taking.done()
        task = self._make_task(Lane.HIGH)
        await queue.publish([task])
        assert await taking == [task]

    async def test_a_task_is_not_handed_out_before_it_is_due(self, queue: Queue) -> None:
        task = self._make_task(Lane.HIGH, due_in=0.2)
        await queue.publish([self._make_task(Lane.HIGH, due_in=3600), task])
        assert await self._receive(queue, Lane.HIGH, limit=9) == [task]
        assert SystemClock().now() >= task.due_at

    async def test_a_task_that_is_due_sooner_overtakes_one_that_is_waited_for(self, queue: Queue) -> None:
        await queue.publish([self._make_task(Lane.HIGH, due_in=3600)])
        taking = asyncio.create_task(self._receive(queue, Lane.HIGH))
        await asyncio.wait([taking], timeout=A_MOMENT)
        sooner = self._make_task(Lane.HIGH)
        await queue.publish([sooner])
        assert await taking == [sooner]

    async def test_each_task_goes_to_one_of_many_takers(self, queue: Queue) -> None:
        takers = [asyncio.create_task(self._receive(queue, Lane.HIGH)) for _ in range(3)]
        await asyncio.wait(takers, timeout=A_MOMENT)
        tasks = [self._make_task(Lane.HIGH) for _ in range(3)]
        await queue.publish(tasks)
        taken = [task for some in await asyncio.gather(*takers) for task in some]
        assert {task.id for task in taken} == {task.id for task in tasks}
        assert len(taken) == 3

    async def test_the_epoch_stays_while_the_queue_remembers(self, queue: Queue) -> None:
        epoch = await queue.instance_id()
        await queue.publish([self._make_task(Lane.HIGH)])
        await queue.ack(await self._receive(queue, Lane.HIGH))
        assert await queue.instance_id() == epoch != ""

    async def test_closing_ends_every_waiting_taker(self, queue: Queue) -> None:
        takers = [asyncio.create_task(self._receive(queue, lane)) for lane in LANES]
        await asyncio.wait(takers, timeout=A_MOMENT)
        await queue.stop()
        assert [list(taken) for taken in await asyncio.gather(*takers)] == [[]] * len(LANES)

    async def test_a_closed_queue_hands_out_nothing(self, queue: Queue) -> None:
        await queue.publish([self._make_task(Lane.HIGH)])
        await queue.stop()
        assert list(await self._receive(queue, Lane.HIGH)) == []

    async def test_what_was_taken_before_the_close_can_still_be_settled(self, queue: Queue) -> None:
        tasks = [self._make_task(Lane.HIGH), self._make_task(Lane.HIGH)]
        await queue.publish(tasks)
        await self._receive(queue, Lane.HIGH, limit=2)
        await queue.stop()
        await queue.ack(tasks[:1])
        await queue.nack(tasks[1:], retry_at=SystemClock().now() + timedelta(hours=1), why="of a test")
        stats = await queue.stats(Lane.HIGH)
        assert (stats.active, stats.completed, stats.delayed) == (0, 1, 1)

    async def test_a_taker_that_is_cancelled_takes_nothing_with_it(self, queue: Queue) -> None:
        tasks = [self._make_task(Lane.HIGH) for _ in range(30)]
        left = {task.id for task in tasks}
        for start, task in enumerate(tasks):
            taking = asyncio.create_task(queue.receive(Lane.HIGH, 1))
            publishing = asyncio.create_task(queue.publish([task]))
            # at a different point in each round
            for _ in range(start):
                await asyncio.sleep(0)
            if not taking.cancel() or (await asyncio.wait([taking]) and not taking.cancelled()):
                left -= {one.id for one in taking.result()}
            await publishing
        while left:
            left -= {one.id for one in await self._receive(queue, Lane.HIGH, limit=9)}

    async def test_it_answers_and_tidies(self, queue: Queue) -> None:
        await queue.ping()
        await queue.publish([self._make_task(Lane.HIGH)])
        await queue.ack(await self._receive(queue, Lane.HIGH))
        await queue.purge()
        assert (await queue.stats(Lane.HIGH)).completed == 1, "what was done just now is kept"

    async def _receive(self, queue: Queue, lane: Lane, limit: int = 1) -> Sequence[Task]:
        async with asyncio.timeout(RECEIVE_TIMEOUT):
            return await queue.receive(lane, limit)

    def _make_task(self, lane: Lane, *, due_in: float = 0) -> Task:
        now = SystemClock().now()
        return Task(new_id(now), TaskKind.DELIVER, new_id(now), lane, now + timedelta(seconds=due_in))
