"""A bounded number of sends at once; urgent ones first, with places of their own; nobody is forgotten."""

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.flow.deliver.gate import Gate
from tidings.model.priority import LANES, Lane


class Crowd:
    """Sends that hold their place until told to leave."""

    def __init__(self, places: int) -> None:
        self.gate = Gate(places)
        self.inside: list[tuple[str, Lane]] = []
        self.entered: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lanes: dict[str, Lane] = {}

    async def come(self, name: str, lane: Lane) -> None:
        self._leave[name], self._lanes[name] = asyncio.Event(), lane
        self._tasks[name] = asyncio.create_task(self._stay(name, lane))
        await self.settle()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await self.settle()

    async def give_up(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await self.settle()

    def waiting(self) -> list[tuple[str, Lane]]:
        entered = set(self.entered)
        return [(name, self._lanes[name]) for name, task in self._tasks.items() if name not in entered | self._done()]

    async def settle(self) -> None:
        # each step of the gate takes at most a few turns of the loop; nothing here waits for time
        for _ in range(5):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for event in self._leave.values():
            event.set()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _done(self) -> set[str]:
        return {name for name, task in self._tasks.items() if task.done()}

    async def _stay(self, name: str, lane: Lane) -> None:
        await self.gate.enter(lane)
        self.entered.append(name)
        self.inside.append((name, lane))
        try:
            await self._leave[name].wait()
        finally:
            self.inside.remove((name, lane))
            self.gate.leave()


async def test_no_more_are_inside_than_there_are_places() -> None:
    crowd = Crowd(10)
    for number in range(20):
        await crowd.come(str(number), Lane.URGENT)
    assert (len(crowd.inside), crowd.gate.in_flight) == (10, 10)
    await crowd.close()
    assert crowd.gate.in_flight == 0


@pytest.mark.parametrize("lane", [Lane.HIGH, Lane.NORMAL, Lane.LOW])
async def test_a_tenth_of_the_places_is_for_urgent_ones_only(lane: Lane) -> None:
    crowd = Crowd(20)
    for number in range(25):
        await crowd.come(f"bulk-{number}", lane)
    assert len(crowd.inside) == 18
    await crowd.come("urgent", Lane.URGENT)
    assert crowd.entered[-1] == "urgent"
    await crowd.close()


async def test_waiters_enter_by_lane_and_then_in_the_order_they_came() -> None:
    crowd = Crowd(1)
    await crowd.come("first", Lane.LOW)
    for lane in (*reversed(LANES), *LANES):
        await crowd.come(f"{lane.value}-{len(crowd.waiting())}", lane)
    while crowd.inside:
        await crowd.leave(crowd.inside[0][0])
    assert crowd.entered == [
        "first", "urgent-3", "urgent-4", "high-2", "high-5", "normal-1", "normal-6", "low-0", "low-7"
    ]  # fmt: skip
    await crowd.close()


async def test_a_newcomer_does_not_overtake_its_own_lane() -> None:
    crowd = Crowd(1)
    for name in ("inside", "waiting"):
        await crowd.come(name, Lane.HIGH)
    crowd._leave["inside"].set()
    await crowd.come("newcomer", Lane.HIGH)
    assert crowd.entered == ["inside", "waiting"]
    await crowd.close()


async def test_a_waiter_that_gives_up_leaves_no_gap() -> None:
    crowd = Crowd(1)
    for name in ("inside", "quitter", "patient"):
        await crowd.come(name, Lane.HIGH)
    await crowd.give_up("quitter")
    await crowd.leave("inside")
    assert crowd.entered == ["inside", "patient"]
    await crowd.close()
    assert crowd.gate.in_flight == 0


async def test_a_place_handed_to_a_waiter_that_is_being_cancelled_is_passed_on() -> None:
    crowd = Crowd(1)
    for name in ("inside", "quitter", "patient"):
        await crowd.come(name, Lane.HIGH)
    crowd._leave["inside"].set()
    await asyncio.sleep(0)  # the one inside has woken and handed its place over; the waiter has not run yet
    await crowd.give_up("quitter")
    assert crowd.entered == ["inside", "patient"]
    await crowd.close()
    assert crowd.gate.in_flight == 0


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.sampled_from(LANES)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("give up"), st.integers(0, 9)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), _steps)
def test_no_place_stays_empty_while_somebody_may_have_it(places: int, steps: list[tuple[str, Lane | int]]) -> None:
    asyncio.run(_played(places, steps))


async def _played(places: int, steps: list[tuple[str, Lane | int]]) -> None:
    crowd = Crowd(places)
    reserve = max(1, places // 10) if places > 1 else 0
    for number, (action, detail) in enumerate(steps):
        waiting = crowd.waiting()
        if isinstance(detail, Lane):
            await crowd.come(str(number), detail)
        elif action == "leave" and crowd.inside:
            await crowd.leave(crowd.inside[detail % len(crowd.inside)][0])
        elif action == "give up" and waiting:
            await crowd.give_up(waiting[detail % len(waiting)][0])
        free = places - len(crowd.inside)
        lanes = Counter(lane for _, lane in crowd.waiting())
        assert crowd.gate.in_flight == len(crowd.inside) <= places
        assert not (lanes[Lane.URGENT] and free > 0)
        assert not (lanes.total() and free > reserve)
    await crowd.close()
    assert crowd.gate.in_flight == 0
