"""A schedule runs once among all, catches up once, and survives a clock that jumps."""

import asyncio
from datetime import timedelta

from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.worker.schedule import Scheduled

EVERY = timedelta(minutes=2)


class Runs:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1


async def test_each_run_is_one_processes(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    processes = [Scheduled(store, clock, "process", EVERY, runs) for _ in range(5)]
    for expected in (1, 2, 3):
        assert sum(await asyncio.gather(*(one.run_if_due() for one in processes))) == 1
        assert runs.count == expected
        assert not any(await asyncio.gather(*(one.run_if_due() for one in processes)))
        clock.advance(EVERY)


async def test_missed_runs_are_caught_up_once(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    one = Scheduled(store, clock, "process", EVERY, runs)
    await one.run_if_due()
    clock.advance(EVERY * 10.5)
    assert await one.run_if_due()
    assert not await one.run_if_due()
    assert runs.count == 2


async def test_a_clock_that_jumps_back_stops_it_for_one_interval_at_most(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    one = Scheduled(store, clock, "process", EVERY, runs)
    await one.run_if_due()
    clock.advance(-timedelta(days=1))
    await one.run_if_due()
    clock.advance(EVERY)
    assert await one.run_if_due()


async def test_who_waits_for_the_next_run_asks_nobody(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    one, other = (Scheduled(store, clock, "process", EVERY, runs) for _ in range(2))
    await one.run_if_due()
    await one.run_if_due()
    asked = store.statements
    for _ in range(10):
        clock.advance(EVERY / 12)
        assert not await one.run_if_due()
    assert store.statements == asked
    clock.advance(EVERY)
    assert await other.run_if_due()
    assert not await one.run_if_due(), "it asks again once its time has come"
    clock.advance(EVERY)
    assert await one.run_if_due()
