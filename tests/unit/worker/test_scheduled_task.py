"""A scheduled task runs once among all processes, catches up once, and tolerates clock jumps."""

import asyncio
from datetime import timedelta

from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.worker.interval_tasks import ScheduledTask

EVERY = timedelta(minutes=2)


class Runs:
    """Counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1


async def test_one_process_runs_each_occurrence(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    processes = [ScheduledTask(store, clock, "process", EVERY, runs) for _ in range(5)]
    for expected in (1, 2, 3):
        assert sum(await asyncio.gather(*(one.run_if_due() for one in processes))) == 1
        assert runs.count == expected
        assert not any(await asyncio.gather(*(one.run_if_due() for one in processes)))
        clock.advance(EVERY)


async def test_missed_runs_are_caught_up_once(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    one = ScheduledTask(store, clock, "process", EVERY, runs)
    await one.run_if_due()
    clock.advance(EVERY * 10.5)
    assert await one.run_if_due()
    assert not await one.run_if_due()
    assert runs.count == 2


async def test_a_clock_that_jumps_back_stops_it_for_one_interval_at_most(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    one = ScheduledTask(store, clock, "process", EVERY, runs)
    await one.run_if_due()
    clock.advance(-timedelta(days=1))
    await one.run_if_due()
    clock.advance(EVERY)
    assert await one.run_if_due()


async def test_waiting_for_the_next_run_makes_no_query(store: SqlStore) -> None:
    clock, runs = FrozenClock(), Runs()
    one, other = (ScheduledTask(store, clock, "process", EVERY, runs) for _ in range(2))
    await one.run_if_due()
    await one.run_if_due()
    asked = store.statement_count
    for _ in range(10):
        clock.advance(EVERY / 12)
        assert not await one.run_if_due()
    assert store.statement_count == asked
    clock.advance(EVERY)
    assert await other.run_if_due()
    assert not await one.run_if_due(), "it asks again once its time has come"
    clock.advance(EVERY)
    assert await one.run_if_due()
