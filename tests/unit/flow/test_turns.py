"""Sends begin a few at a time, so that nothing waits long for the event loop, and one by one beside urgent work."""

import asyncio
from contextlib import suppress

from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.turns import TOGETHER
from tidings.model.priority import Lane

CROWD = 10 * TOGETHER


async def _pass() -> None:
    await asyncio.sleep(0)


class Crowd:
    """Sends that stay, at a gate with room for all."""

    def __init__(self, lane: Lane = Lane.NORMAL) -> None:
        self.gate = Gate(4 * CROWD)
        self._tasks = [asyncio.create_task(self.gate.enter(lane)) for _ in range(CROWD)]

    @property
    def inside(self) -> int:
        return self.gate.in_flight

    async def all_in(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks)


async def test_a_few_begin_in_one_pass_of_the_loop_and_soon_all_have_begun() -> None:
    crowd = Crowd()
    await _pass()
    assert crowd.inside == TOGETHER
    last = crowd.inside
    while crowd.inside < CROWD:
        await _pass()
        assert crowd.inside - last <= TOGETHER
        last = crowd.inside
    await crowd.all_in()


async def test_an_urgent_one_goes_before_those_that_wait_for_their_turn() -> None:
    crowd = Crowd()
    await _pass()
    urgent = asyncio.create_task(crowd.gate.enter(Lane.URGENT))
    while not urgent.done():
        await _pass()
    assert crowd.inside <= 4 * TOGETHER
    await crowd.close()


async def test_beside_urgent_work_they_begin_one_by_one_and_do_not_stand_still() -> None:
    crowd = Crowd()
    with crowd.gate.urgent_work():
        for _ in range(3):
            await _pass()
        assert crowd.inside == 1
        async with asyncio.timeout(10):
            while crowd.inside < 3:
                await asyncio.sleep(0.001)
        assert crowd.inside < CROWD
    await crowd.all_in()


async def test_urgent_work_does_not_hold_up_urgent_sends() -> None:
    crowd = Crowd(Lane.URGENT)
    with crowd.gate.urgent_work():
        await crowd.all_in()
