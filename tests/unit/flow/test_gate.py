"""A bounded number of sends at once; urgent ones first, with places of their own; nobody is forgotten."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.flow.deliver.destination import Destination
from tidings.flow.deliver.gate import Gate
from tidings.model.outcome import Deferred
from tidings.model.priority import LANES, Lane


class Crowd:
    """Sends that hold their place until told to leave."""

    def __init__(self, places: int) -> None:
        self.gate = Gate(places)
        self.inside: list[tuple[str, Lane]] = []
        self.entered: list[str] = []
        self.turned_away: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lanes: dict[str, Lane] = {}

    async def come(self, name: str, lane: Lane, far: Destination | None = None) -> None:
        self._leave[name], self._lanes[name] = asyncio.Event(), lane
        self._tasks[name] = asyncio.create_task(self._stay(name, lane, far))
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

    async def _stay(self, name: str, lane: Lane, far: Destination | None) -> None:
        if not await self.gate.enter(lane, far):
            self.turned_away.append(name)
            return
        self.entered.append(name)
        self.inside.append((name, lane))
        try:
            await self._leave[name].wait()
        finally:
            self.inside.remove((name, lane))
            self.gate.leave(far)


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


class Far:
    """A destination with a fixed share."""

    def __init__(self, name: str, share: int) -> None:
        self.name = name
        self._share = share

    def share(self, places: int) -> int:
        return self._share

    def is_closed(self, *, full: bool) -> bool:
        raise AssertionError("the gate does not decide this")

    def not_now(self, priority: Lane, expires_at: datetime) -> Deferred:
        raise AssertionError("the gate does not decide this")


async def test_no_destination_gets_more_than_its_share_and_its_crowd_is_in_nobodys_way() -> None:
    crowd = Crowd(20)
    slow, quick = Far("slow", 4), Far("quick", 15)
    for number in range(30):
        await crowd.come(f"slow-{number}", Lane.NORMAL, slow)
    assert len(crowd.inside) == 4
    assert crowd.gate.is_full(slow)
    for number in range(20):
        await crowd.come(f"quick-{number}", Lane.LOW, quick)
    assert len(crowd.inside) == 18, "two are kept for urgent ones"
    await crowd.leave("slow-0")
    assert crowd.entered[-1] == "slow-4"
    await crowd.close()
    assert (crowd.gate.in_flight, crowd.gate.is_full(slow)) == (0, False)


async def test_urgent_ones_may_exceed_the_share_by_the_places_kept_for_them() -> None:
    crowd = Crowd(20)
    far = Far("far", 4)
    for number in range(10):
        await crowd.come(f"bulk-{number}", Lane.NORMAL, far)
        await crowd.come(f"urgent-{number}", Lane.URGENT, far)
    assert [lane for _, lane in crowd.inside].count(Lane.URGENT) == 4
    assert len(crowd.inside) == 6
    await crowd.close()


async def test_who_waits_for_a_destination_that_closes_is_turned_away_and_nobody_else() -> None:
    crowd = Crowd(4)
    closed, other = Far("closed", 1), Far("other", 1)
    for far in (closed, other):
        for number in range(3):
            await crowd.come(f"{far.name}-{number}", Lane.NORMAL, far)
    crowd.gate.turn_away(closed)
    await crowd.settle()
    assert crowd.turned_away == ["closed-1", "closed-2"]
    await crowd.leave("other-0")
    assert crowd.entered == ["closed-0", "other-0", "other-1"]
    await crowd.close()
    assert crowd.gate.in_flight == 0


async def test_what_hangs_lends_its_places_until_it_ends() -> None:
    crowd = Crowd(20)
    hangs, works = Far("hangs", 15), Far("works", 20)
    for number in range(15):
        await crowd.come(f"hangs-{number}", Lane.NORMAL, hangs)
    crowd.gate.lend(hangs)
    crowd.gate.lend(hangs)
    for number in range(30):
        await crowd.come(f"works-{number}", Lane.NORMAL, works)
    assert crowd.gate.in_flight == len(crowd.inside) == 15 + 18
    for number in range(15):
        await crowd.leave(f"hangs-{number}")
    assert crowd.gate.in_flight == len(crowd.inside) == 18, "what was lent is not there twice"
    await crowd.close()
    assert crowd.gate.in_flight == 0


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.sampled_from(LANES), st.sampled_from([None, "a", "b"])),
        st.tuples(st.just("leave"), st.integers(0, 9), st.none()),
        st.tuples(st.just("give up"), st.integers(0, 9), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), _steps)
def test_no_place_stays_empty_while_somebody_may_have_it(
    places: int, share: int, steps: list[tuple[str, Lane | int, str | None]]
) -> None:
    asyncio.run(_played(places, share, steps))


async def _played(places: int, share: int, steps: list[tuple[str, Lane | int, str | None]]) -> None:
    crowd = Crowd(places)
    reserve = max(1, places // 10) if places > 1 else 0
    fars = {"a": Far("a", share), "b": Far("b", places)}
    went: dict[str, str | None] = {}
    for number, (action, detail, name) in enumerate(steps):
        waiting = crowd.waiting()
        if isinstance(detail, Lane):
            went[str(number)] = name
            await crowd.come(str(number), detail, fars.get(name or ""))
        elif action == "leave" and crowd.inside:
            await crowd.leave(crowd.inside[detail % len(crowd.inside)][0])
        elif action == "give up" and waiting:
            await crowd.give_up(waiting[detail % len(waiting)][0])
        inside = Counter(went[one] for one, _ in crowd.inside)
        assert crowd.gate.in_flight == len(crowd.inside) <= places
        assert inside["a"] <= share + reserve
        for one, lane in crowd.waiting():
            extra = reserve if lane is Lane.URGENT else 0
            has_place = places - len(crowd.inside) > reserve - extra
            assert not (has_place and (went[one] != "a" or inside["a"] < share + extra))
    await crowd.close()
    assert crowd.gate.in_flight == 0
