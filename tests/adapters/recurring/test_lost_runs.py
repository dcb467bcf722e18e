"""Runs of recurring notifications that fail: an operator learns of them in time, and they are made up for once."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from tests.adapters.recurring.test_runs import HOUR, MINUTE, NINE, World

from tidings.flow.recurring import runner
from tidings.flow.recurring.occurrences import list_due
from tidings.model.alert import AlertName
from tidings.model.recurring import ResolvedVariables, RunState, SourceFailed, SourceRequest, SourceResult
from tidings.model.user import User
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock

URL = "https://shop.example"


@pytest.fixture
async def world(any_store: SqlStore) -> World:
    async with any_store.transaction() as tx:
        people = [User("ana", timezone="Europe/Berlin"), User("ben", timezone="America/New_York")]
        await any_store.users.upsert(tx, people, NINE)
    return World(any_store, FrozenClock(NINE - MINUTE))


async def test_c15_an_operator_learns_of_a_failing_run_before_it_is_lost(world: World) -> None:
    await world.put(variables_url=URL, at=("MON 09:00",))
    world.endpoints.answer = SourceFailed("the endpoint answered 500, not 200 or 204")
    for _ in range(2):
        world.clock.advance(MINUTE)
        await world.run_due()
    assert world.list_alerts(AlertName.RECURRING_RUN_FAILING) == []
    world.clock.advance(MINUTE)
    await world.run_due()
    [run] = await world.list_runs()
    [alert] = world.process.alerts.list_active()
    assert (alert.name, alert.subject) == (
        AlertName.RECURRING_RUN_FAILING,
        f"daily 2026-11-23T08:00+00:00 {run.id}",
    )
    assert alert.detail == (
        "3 attempts failed, the last with: the endpoint answered 500, not 200 or 204; the next is at "
        "2026-11-23T08:04:00+00:00, none after 2026-11-30T08:00+00:00"
    )
    world.endpoints.answer = ResolvedVariables({})
    world.clock.advance(HOUR)
    await world.run_due()
    assert world.process.alerts.list_active() == []


async def test_c15_a_run_of_another_zone_does_not_end_the_alert_and_a_repeat_reaches_its_zones(world: World) -> None:
    await world.put(variables_url=URL, timezone=None, catch_up=2 * MINUTE)
    world.endpoints.answer = SourceFailed("the endpoint answered 500, not 200 or 204")
    for _ in range(4):
        world.clock.advance(MINUTE)
        await world.run_due()
    world.endpoints.answer = ResolvedVariables({})
    world.clock.advance(6 * HOUR)
    await world.run_due()
    berlin, new_york = await world.list_runs()
    assert (berlin.state, new_york.state) == (RunState.FAILED, RunState.MISSED)
    assert world.list_alerts() == [berlin.id, new_york.id]
    for lost, left in ((new_york, [berlin.id]), (berlin, [])):
        async with world.store.transaction() as tx:
            now = world.clock.now()
            assert await world.store.recurring.repeat_run(tx, lost, now + HOUR, now)
            assert not await world.store.recurring.repeat_run(tx, lost, now + HOUR, now)
        await world.run_due()
        assert world.list_alerts() == left
    runs = await world.list_runs()
    assert [(run.id, run.state, run.timezones) for run in runs] == [
        (berlin.id, RunState.ACCEPTED, ("Europe/Berlin",)),
        (new_york.id, RunState.ACCEPTED, ("America/New_York",)),
    ]
    async with world.store.transaction() as tx:
        assert not await world.store.recurring.repeat_run(tx, berlin, now + HOUR, now)


async def test_c15_a_worker_that_stops_leaves_its_run_to_the_next(world: World) -> None:
    await world.put(variables_url=URL, catch_up=2 * MINUTE)
    is_asked = asyncio.Event()

    async def answer(_request: SourceRequest) -> SourceResult:
        is_asked.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]  # never

    world.endpoints.answer = answer
    world.clock.advance(MINUTE)
    stopping = asyncio.create_task(world.run_due(world.runners[1]))
    await is_asked.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    world.endpoints.answer = ResolvedVariables({})
    await world.run_due()
    [run] = await world.list_runs()
    assert (run.state, run.attempts) == (RunState.ACCEPTED, 2)


async def test_c15_a_run_that_workers_began_is_failed_and_not_missed(world: World) -> None:
    await world.put(catch_up=2 * MINUTE)
    world.clock.advance(MINUTE)
    async with world.store.transaction() as tx:
        [recurring] = await world.store.recurring.list_due(tx, NINE, 1)
    assert await world.runners[0]._schedule(recurring, NINE)
    async with world.store.transaction() as tx:
        # by a worker that is killed then
        [claimed] = await world.store.recurring.claim_runs(tx, NINE, hidden_until=NINE + runner.HIDDEN_FOR, limit=1)
    assert claimed.deadline > NINE + runner.HIDDEN_FOR
    world.clock.advance(2 * MINUTE)
    await world.run_due()
    [run] = await world.list_runs()
    assert (run.state, run.reason) == (RunState.FAILED, "each worker that made it was stopped")


async def test_c15_times_of_zones_are_computed_beside_the_event_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def record(*arguments: object) -> Sequence[object]:
        threads.append(threading.current_thread().name)
        return list_due(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(runner, "list_due", record)
    await world.put(timezone=None)
    world.clock.advance(MINUTE)
    await world.run_due()
    assert len(threads) == 1
    assert threads != [threading.current_thread().name]


async def test_c15_pending_runs_and_newest_runs_are_found_across_names(world: World) -> None:
    for name in ("first", "second", "third"):
        await world.put(name, variables_url=URL if name == "first" else None)
    world.endpoints.answer = SourceFailed("away")
    world.clock.advance(MINUTE)
    await world.run_due()
    async with world.store.read_snapshot() as tx:
        [pending] = await world.store.recurring.list_pending_runs(tx, limit=10)
        newest = await world.store.recurring.find_last_runs(tx, ["first", "second", "none"])
    assert (pending.name, pending.attempts, pending.reason) == ("first", 1, "away")
    assert {name: run.state for name, run in newest.items()} == {
        "first": RunState.PENDING,
        "second": RunState.ACCEPTED,
    }
