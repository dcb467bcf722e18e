"""The send limiter: bounded slots, priority for urgent sends, and no starved waiter."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.model.outcome import RetryLater
from tidings.model.priority import LANES, Lane
from tidings.ports.channel import Destination


class SendGroup:
    """Sends that hold their slot until `finish` is called."""

    def __init__(self, slots: int) -> None:
        self.limiter = SendLimiter(slots)
        self.running: list[tuple[str, Lane]] = []
        self.started: list[str] = []
        self.rejected: list[str] = []
        self._finish: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lanes: dict[str, Lane] = {}

    async def start(self, name: str, lane: Lane, destination: Destination | None = None) -> None:
        self._finish[name], self._lanes[name] = asyncio.Event(), lane
        self._tasks[name] = asyncio.create_task(self._run(name, lane, destination))
        await self.settle()

    async def finish(self, name: str) -> None:
        self._finish[name].set()
        await self.settle()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await self.settle()

    def waiting(self) -> list[tuple[str, Lane]]:
        started = set(self.started)
        return [(name, self._lanes[name]) for name, task in self._tasks.items() if name not in started | self._done()]

    async def settle(self) -> None:
        # each step of the limiter takes at most a few passes of the event loop
        for _ in range(5):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for event in self._finish.values():
            event.set()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _done(self) -> set[str]:
        return {name for name, task in self._tasks.items() if task.done()}

    async def _run(self, name: str, lane: Lane, destination: Destination | None) -> None:
        if not await self.limiter.acquire(lane, destination):
            self.rejected.append(name)
            return
        self.started.append(name)
        self.running.append((name, lane))
        try:
            await self._finish[name].wait()
        finally:
            self.running.remove((name, lane))
            self.limiter.release(destination)


async def test_no_more_sends_run_than_slots() -> None:
    sends = SendGroup(10)
    for number in range(20):
        await sends.start(str(number), Lane.URGENT)
    assert (len(sends.running), sends.limiter.in_flight) == (10, 10)
    await sends.close()
    assert sends.limiter.in_flight == 0


@pytest.mark.parametrize("lane", [Lane.HIGH, Lane.NORMAL, Lane.LOW])
async def test_a_tenth_of_the_slots_is_reserved_for_urgent_sends(lane: Lane) -> None:
    sends = SendGroup(20)
    for number in range(25):
        await sends.start(f"bulk-{number}", lane)
    assert len(sends.running) == 18
    await sends.start("urgent", Lane.URGENT)
    assert sends.started[-1] == "urgent"
    await sends.close()


async def test_waiters_start_by_lane_and_then_in_order_of_arrival() -> None:
    sends = SendGroup(1)
    await sends.start("first", Lane.LOW)
    for lane in (*reversed(LANES), *LANES):
        await sends.start(f"{lane.value}-{len(sends.waiting())}", lane)
    while sends.running:
        await sends.finish(sends.running[0][0])
    assert sends.started == [
        "first", "urgent-3", "urgent-4", "high-2", "high-5", "normal-1", "normal-6", "low-0", "low-7"
    ]  # fmt: skip
    await sends.close()


async def test_a_newcomer_does_not_overtake_its_own_lane() -> None:
    sends = SendGroup(1)
    for name in ("running", "waiting"):
        await sends.start(name, Lane.HIGH)
    sends._finish["running"].set()
    await sends.start("newcomer", Lane.HIGH)
    assert sends.started == ["running", "waiting"]
    await sends.close()


async def test_a_cancelled_waiter_leaves_no_gap() -> None:
    sends = SendGroup(1)
    for name in ("running", "quitter", "patient"):
        await sends.start(name, Lane.HIGH)
    await sends.cancel("quitter")
    await sends.finish("running")
    assert sends.started == ["running", "patient"]
    await sends.close()
    assert sends.limiter.in_flight == 0


async def test_a_slot_given_to_a_waiter_that_is_being_cancelled_is_passed_on() -> None:
    sends = SendGroup(1)
    for name in ("running", "quitter", "patient"):
        await sends.start(name, Lane.HIGH)
    sends._finish["running"].set()
    await asyncio.sleep(0)  # the running send has released its slot; the waiter has not run yet
    await sends.cancel("quitter")
    assert sends.started == ["running", "patient"]
    await sends.close()
    assert sends.limiter.in_flight == 0


class FixedShareDestination:
    """A destination with a fixed share."""

    def __init__(self, name: str, share: int) -> None:
        self.name = name
        self._share = share

    def share(self, slots: int) -> int:
        return self._share

    def is_closed(self, *, is_full: bool) -> bool:
        raise AssertionError("the limiter does not decide this")

    def defer(self, priority: Lane, expires_at: datetime) -> RetryLater:
        raise AssertionError("the limiter does not decide this")


async def test_no_destination_exceeds_its_share_or_delays_others() -> None:
    sends = SendGroup(20)
    slow, quick = FixedShareDestination("slow", 4), FixedShareDestination("quick", 15)
    for number in range(30):
        await sends.start(f"slow-{number}", Lane.NORMAL, slow)
    assert len(sends.running) == 4
    assert sends.limiter.is_full(slow)
    for number in range(20):
        await sends.start(f"quick-{number}", Lane.LOW, quick)
    assert len(sends.running) == 18, "two slots are reserved for urgent sends"
    await sends.finish("slow-0")
    assert sends.started[-1] == "slow-4"
    await sends.close()
    assert (sends.limiter.in_flight, sends.limiter.is_full(slow)) == (0, False)


async def test_urgent_sends_may_exceed_the_share_by_the_reserved_slots() -> None:
    sends = SendGroup(20)
    destination = FixedShareDestination("destination", 4)
    for number in range(10):
        await sends.start(f"bulk-{number}", Lane.NORMAL, destination)
        await sends.start(f"urgent-{number}", Lane.URGENT, destination)
    assert [lane for _, lane in sends.running].count(Lane.URGENT) == 4
    assert len(sends.running) == 6
    await sends.close()


async def test_only_waiters_for_a_closed_destination_are_rejected() -> None:
    sends = SendGroup(4)
    closed, other = FixedShareDestination("closed", 1), FixedShareDestination("other", 1)
    for destination in (closed, other):
        for number in range(3):
            await sends.start(f"{destination.name}-{number}", Lane.NORMAL, destination)
    sends.limiter.reject_waiters(closed)
    await sends.settle()
    assert sends.rejected == ["closed-1", "closed-2"]
    await sends.finish("other-0")
    assert sends.started == ["closed-0", "other-0", "other-1"]
    await sends.close()
    assert sends.limiter.in_flight == 0


async def test_hung_sends_lend_their_slots_until_they_end() -> None:
    sends = SendGroup(20)
    hangs, works = FixedShareDestination("hangs", 15), FixedShareDestination("works", 20)
    for number in range(15):
        await sends.start(f"hangs-{number}", Lane.NORMAL, hangs)
    sends.limiter.lend_hung_slots(hangs)
    sends.limiter.lend_hung_slots(hangs)
    for number in range(30):
        await sends.start(f"works-{number}", Lane.NORMAL, works)
    assert sends.limiter.in_flight == len(sends.running) == 15 + 18
    for number in range(15):
        await sends.finish(f"hangs-{number}")
    assert sends.limiter.in_flight == len(sends.running) == 18, "lent slots do not count twice"
    await sends.close()
    assert sends.limiter.in_flight == 0


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(LANES), st.sampled_from([None, "a", "b"])),
        st.tuples(st.just("finish"), st.integers(0, 9), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), _steps)
def test_no_slot_stays_free_while_a_waiter_may_use_it(
    slots: int, share: int, steps: list[tuple[str, Lane | int, str | None]]
) -> None:
    asyncio.run(_run_steps(slots, share, steps))


async def _run_steps(slots: int, share: int, steps: list[tuple[str, Lane | int, str | None]]) -> None:
    sends = SendGroup(slots)
    reserve = max(1, slots // 10) if slots > 1 else 0
    destinations = {"a": FixedShareDestination("a", share), "b": FixedShareDestination("b", slots)}
    destination_of: dict[str, str | None] = {}
    for number, (action, detail, name) in enumerate(steps):
        waiting = sends.waiting()
        if isinstance(detail, Lane):
            destination_of[str(number)] = name
            await sends.start(str(number), detail, destinations.get(name or ""))
        elif action == "finish" and sends.running:
            await sends.finish(sends.running[detail % len(sends.running)][0])
        elif action == "cancel" and waiting:
            await sends.cancel(waiting[detail % len(waiting)][0])
        running = Counter(destination_of[send] for send, _ in sends.running)
        assert sends.limiter.in_flight == len(sends.running) <= slots
        assert running["a"] <= share + reserve
        for send, lane in sends.waiting():
            extra = reserve if lane is Lane.URGENT else 0
            has_slot = slots - len(sends.running) > reserve - extra
            assert not (has_slot and (destination_of[send] != "a" or running["a"] < share + extra))
    await sends.close()
    assert sends.limiter.in_flight == 0
