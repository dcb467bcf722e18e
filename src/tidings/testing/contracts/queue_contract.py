"""Suite for `ports.queue.Queue`: lanes, due times, closing. Time is the machine's own, in tens of milliseconds."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from tidings.model.ids import new_id
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.ports.queue import Queue

#: seconds that nothing in the suite takes unless it hangs
PATIENCE = 10.0
#: seconds after which a queue that was going to hand out too early would have done so
A_MOMENT = 0.05


class QueueContract:
    """Subclass it and give a fixture `queue`: an empty queue of the adapter on the machine's clock."""

    async def test_a_task_comes_out_as_it_went_in(self, queue: Queue) -> None:
        task = self._task(Lane.HIGH)
        await queue.publish([task])
        assert await self._taken(queue, Lane.HIGH) == [task]

    async def test_tasks_come_in_the_order_they_are_due_and_then_published(self, queue: Queue) -> None:
        late, early, *same = (self._task(Lane.LOW, due_in=-seconds) for seconds in (1, 9, 5, 5, 5))
        same = [Task(one.id, one.kind, one.ref, one.lane, same[0].due_at) for one in same]
        await queue.publish([late, *same[:2]])
        await queue.publish([early, *same[2:]])
        assert await self._taken(queue, Lane.LOW, limit=9) == [early, *same, late]

    async def test_no_more_are_handed_out_than_asked_for(self, queue: Queue) -> None:
        tasks = [self._task(Lane.LOW) for _ in range(3)]
        await queue.publish(tasks)
        assert len(await self._taken(queue, Lane.LOW, limit=2)) == 2
        assert len(await self._taken(queue, Lane.LOW, limit=2)) == 1

    @pytest.mark.parametrize("lane", LANES)
    async def test_lanes_are_independent(self, queue: Queue, lane: Lane) -> None:
        await queue.publish([self._task(other) for other in LANES])
        assert [task.lane for task in await self._taken(queue, lane, limit=9)] == [lane]

    async def test_a_taker_waits_for_a_task(self, queue: Queue) -> None:
        taking = asyncio.create_task(self._taken(queue, Lane.HIGH))
        await asyncio.wait([taking], timeout=A_MOMENT)
        assert not taking.done()
        task = self._task(Lane.HIGH)
        await queue.publish([task])
        assert await taking == [task]

    async def test_a_task_is_not_handed_out_before_it_is_due(self, queue: Queue) -> None:
        task = self._task(Lane.HIGH, due_in=0.2)
        await queue.publish([self._task(Lane.HIGH, due_in=3600), task])
        assert await self._taken(queue, Lane.HIGH, limit=9) == [task]
        assert SystemClock().now() >= task.due_at

    async def test_a_task_that_is_due_sooner_overtakes_one_that_is_waited_for(self, queue: Queue) -> None:
        await queue.publish([self._task(Lane.HIGH, due_in=3600)])
        taking = asyncio.create_task(self._taken(queue, Lane.HIGH))
        await asyncio.wait([taking], timeout=A_MOMENT)
        sooner = self._task(Lane.HIGH)
        await queue.publish([sooner])
        assert await taking == [sooner]

    async def test_each_task_goes_to_one_of_many_takers(self, queue: Queue) -> None:
        takers = [asyncio.create_task(self._taken(queue, Lane.HIGH)) for _ in range(3)]
        await asyncio.wait(takers, timeout=A_MOMENT)
        tasks = [self._task(Lane.HIGH) for _ in range(3)]
        await queue.publish(tasks)
        taken = [task for some in await asyncio.gather(*takers) for task in some]
        assert {task.id for task in taken} == {task.id for task in tasks}
        assert len(taken) == 3

    async def test_the_epoch_stays_while_the_queue_remembers(self, queue: Queue) -> None:
        epoch = await queue.epoch()
        await queue.publish([self._task(Lane.HIGH)])
        await queue.done(await self._taken(queue, Lane.HIGH))
        assert await queue.epoch() == epoch != ""

    async def test_closing_ends_every_waiting_taker(self, queue: Queue) -> None:
        takers = [asyncio.create_task(self._taken(queue, lane)) for lane in LANES]
        await asyncio.wait(takers, timeout=A_MOMENT)
        await queue.close()
        assert [list(taken) for taken in await asyncio.gather(*takers)] == [[]] * len(LANES)

    async def test_a_closed_queue_hands_out_nothing(self, queue: Queue) -> None:
        await queue.publish([self._task(Lane.HIGH)])
        await queue.close()
        assert list(await self._taken(queue, Lane.HIGH)) == []

    async def _taken(self, queue: Queue, lane: Lane, limit: int = 1) -> Sequence[Task]:
        async with asyncio.timeout(PATIENCE):
            return await queue.take(lane, limit)

    def _task(self, lane: Lane, *, due_in: float = 0) -> Task:
        now = SystemClock().now()
        return Task(new_id(now), TaskKind.DELIVER, new_id(now), lane, now + timedelta(seconds=due_in))
