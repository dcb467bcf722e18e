"""Suite for `ports.operations.Schedules`: each run is claimed by one process, and missed runs are made up for once."""

import asyncio
from datetime import datetime, timedelta

import pytest

from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW

EVERY = timedelta(minutes=2)
A_MOMENT = timedelta(milliseconds=50)


async def claim_run(store: Store, now: datetime, name: str = "process", every: timedelta = EVERY) -> bool:
    """Claim the run in a separate transaction."""
    async with store.transaction() as tx:
        return await store.schedules.claim_run(tx, name, every=every, now=now)


async def next_run_at(store: Store, name: str = "process") -> datetime | None:
    """Return when the schedule is due."""
    async with store.read_snapshot() as tx:
        return await store.schedules.next_run_at(tx, name)


class SchedulesContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_schedule_is_due_at_once_and_then_at_each_beat(self, store: Store) -> None:
        assert await next_run_at(store) is None
        assert await claim_run(store, NOW)
        assert await next_run_at(store) == NOW + EVERY
        assert not await claim_run(store, NOW)
        assert not await claim_run(store, NOW + EVERY - A_MOMENT)
        assert await claim_run(store, NOW + EVERY)
        assert not await claim_run(store, NOW + EVERY)
        assert await next_run_at(store) == NOW + 2 * EVERY

    async def test_a_run_that_comes_late_does_not_shift_the_beat(self, store: Store) -> None:
        await claim_run(store, NOW)
        assert await claim_run(store, NOW + 1.5 * EVERY)
        assert await next_run_at(store) == NOW + 2 * EVERY

    async def test_missed_runs_are_caught_up_once(self, store: Store) -> None:
        await claim_run(store, NOW)
        after_the_night = NOW + 200 * EVERY + A_MOMENT
        assert await claim_run(store, after_the_night)
        assert not await claim_run(store, after_the_night)
        assert await next_run_at(store) == NOW + 201 * EVERY

    async def test_schedules_do_not_know_each_other(self, store: Store) -> None:
        assert await claim_run(store, NOW, "process")
        assert await claim_run(store, NOW, "tidy", timedelta(hours=1))
        assert await claim_run(store, NOW + EVERY, "process")
        assert not await claim_run(store, NOW + EVERY, "tidy", timedelta(hours=1))

    async def test_one_of_many_processes_runs_it(self, store: Store) -> None:
        for at in (NOW, NOW + EVERY, NOW + 10 * EVERY):
            # their clocks differ slightly
            claims = await asyncio.gather(*(claim_run(store, at + number * A_MOMENT) for number in range(20)))
            assert claims.count(True) == 1
            again = await asyncio.gather(*(claim_run(store, at - number * A_MOMENT) for number in range(20)))
            assert again.count(True) == 0

    async def test_a_run_whose_transaction_failed_is_free_again(self, store: Store) -> None:
        for at in (NOW, NOW + EVERY):
            with pytest.raises(RuntimeError, match="after the write"):
                await self._claim_and_fail(store, at)
            assert await claim_run(store, at)

    @pytest.mark.parametrize("back", [timedelta(hours=1), timedelta(days=1), EVERY * 1.5])
    async def test_a_clock_that_jumped_back_stops_it_for_one_interval_at_most(
        self, store: Store, back: timedelta
    ) -> None:
        await claim_run(store, NOW)
        earlier = NOW - back
        ran = [at for at in range(0, 600, 10) if await claim_run(store, earlier + timedelta(seconds=at))]
        assert ran == [120, 240, 360, 480]

    @pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=1)])
    async def test_a_clock_that_jumped_ahead_makes_one_run(self, store: Store, ahead: timedelta) -> None:
        await claim_run(store, NOW)
        ran = [at for at in range(0, 300, 10) if await claim_run(store, NOW + ahead + timedelta(seconds=at))]
        assert ran == [0, 120, 240]

    async def test_a_shorter_interval_holds_from_now_on(self, store: Store) -> None:
        await claim_run(store, NOW, every=timedelta(days=1))
        assert not await claim_run(store, NOW + A_MOMENT)
        assert await next_run_at(store) == NOW + A_MOMENT + EVERY

    async def _claim_and_fail(self, store: Store, now: datetime) -> None:
        async with store.transaction() as tx:
            assert await store.schedules.claim_run(tx, "process", every=EVERY, now=now)
            raise RuntimeError("after the write")
