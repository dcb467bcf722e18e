"""What a crash or a lost queue left behind is found again in the database, and told once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.flow import lost
from tidings.flow.dispatch.tasks import TOLD_TOGETHER
from tidings.flow.pipeline import Sizes
from tidings.flow.recovery import Redriven
from tidings.model.audience import everyone, users
from tidings.model.priority import Priority
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Released
from tidings.testing.contracts.samples import NO_KEY, NOW

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process

LOST_AFTER = lost.LOST_AFTER.total_seconds()
CROWD = [f"user-{number:02}" for number in range(6)]


@pytest.fixture
async def process(process: Process) -> Process:
    await process.people(*CROWD)
    return process


async def _forget(process: Process) -> list[Task]:
    """Lose what the queue holds; return what it was told until then."""
    for lane in Priority:
        taken = await process.queue.taken(lane)
        await process.queue.done(taken)
    told = list(process.queue.told)
    process.queue.told.clear()
    return told


async def _claimed(process: Process) -> None:
    """Plan a notification and claim its deliveries, as a worker does that then dies."""
    notification = await process.tell(*CROWD)
    await process.plan(notification)
    batches = [task.ref for task in process.queue.told if task.kind is TaskKind.DELIVER]
    now = process.clock.now()
    async with process.store.begin() as tx:
        await process.store.deliveries.claim(
            tx, batches, token=NO_KEY, now=now, lease_until=now + timedelta(seconds=60)
        )
    await _forget(process)


async def test_a_batch_is_lost_when_the_queue_has_got_to_much_younger_work(process: Process) -> None:
    notification = await process.tell("user-01")
    await process.plan(notification)
    [batch] = [task for task in await _forget(process) if task.kind is TaskKind.DELIVER]
    process.clock.advance(LOST_AFTER)
    assert await process.recovery.find_lost() == 0
    process.clock.advance(1)
    assert await process.recovery.find_lost() == 1
    [again] = process.queue.told
    assert (again.kind, again.ref, again.lane) == (batch.kind, batch.ref, batch.lane)
    assert again.generation == int(process.clock.now().timestamp()) // TOLD_TOGETHER
    await process.work()
    assert await process.states(notification) == {"delivered": 1}


async def test_what_waits_behind_a_long_backlog_is_not_lost(process: Process) -> None:
    waiting = await process.tell("user-01")
    await process.pipeline.fan_out_many([waiting.id])
    process.clock.advance(600)
    assert await process.recovery.find_lost() == 0


async def test_each_lane_is_judged_by_itself(process: Process) -> None:
    urgent = await process.pipeline.submit(replace(process.asks(users("user-01")), priority=Priority.URGENT))
    await process.plan(urgent)
    await _forget(process)
    await process.plan(await process.tell("user-02"))
    process.clock.advance(LOST_AFTER + 1)
    assert await process.recovery.find_lost() == 1
    assert process.queue.told[-1].lane is Priority.URGENT


async def test_what_was_told_again_is_not_told_over_and_over(process: Process) -> None:
    await process.plan(await process.tell("user-01"))
    await _forget(process)
    process.clock.advance(LOST_AFTER + 1)
    assert await process.recovery.find_lost() == 1
    for _ in range(20):
        process.clock.advance(15)
        assert await process.recovery.find_lost() == 0, "it waits on its lane"
    await _forget(process)
    assert await process.recovery.find_lost() == 1, "and was lost once more"


async def test_two_workers_that_look_at_about_the_same_time_tell_one_task(start: Callable[..., Process]) -> None:
    pair = start(), start()
    await pair[0].people(*CROWD)
    await pair[0].plan(await pair[0].tell("user-01"))
    pair[0].clock.advance(LOST_AFTER + 5)
    pair[0].queue.told.clear()
    await _forget(pair[0])
    assert [await one.recovery.find_lost() for one in pair] == [1, 1]
    assert pair[0].queue.told == pair[1].queue.told


async def test_a_fan_out_that_stands_still_is_told_again(start: Callable[..., Process]) -> None:
    process = start(sizes=Sizes(page=2))
    await process.people(*CROWD)
    notification = await process.tell(to=everyone())
    assert await process.recovery.find_lost() == 0
    process.clock.advance(30)
    await process.pipeline.fan_out(notification.id)
    await _forget(process)
    await process.recovery.find_lost()
    process.clock.advance(LOST_AFTER - 1)
    process.queue.told.clear()
    await process.recovery.find_lost()
    assert [task.kind for task in process.queue.told if task.kind is TaskKind.FAN_OUT] == [], "it moved meanwhile"
    process.clock.advance(1)
    await process.recovery.find_lost()
    assert [task.ref for task in process.queue.told if task.kind is TaskKind.FAN_OUT] == [notification.id]
    await process.work()
    process.clock.advance(1)
    await process.recovery.find_lost()
    await process.work()
    assert await process.states(notification) == {"delivered": len(CROWD)}, "the batch of the first page was lost too"


async def test_what_waits_for_its_time_is_not_lost(process: Process) -> None:
    await process.pipeline.submit(replace(process.asks(users("user-01")), send_at=NOW + timedelta(hours=1)))
    for _ in range(3):
        assert await process.recovery.find_lost() == 0
        process.clock.advance(61)


async def test_more_open_notifications_than_are_looked_at_in_one_go_are_all_found(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost, "_PAGE", 2)
    monkeypatch.setattr(lost, "_PAGES", 1)
    told = {(await process.tell("user-01")).id for _ in range(5)}
    await _forget(process)
    for _ in range(3):
        await process.recovery.find_lost()
    process.clock.advance(60)
    found = [await process.recovery.find_lost() for _ in range(3)]
    assert found == [2, 2, 1]
    assert {task.ref for task in process.queue.told} == told


async def test_what_a_queue_that_went_away_held_is_told_to_the_way_out_of_it(process: Process) -> None:
    planned, waiting = await process.tell("user-01"), await process.tell("user-02")
    await process.plan(planned)
    await _forget(process)
    assert await process.recovery.go_alone() == Redriven(notifications=1, batches=1)
    await process.work()
    assert [await process.states(one) for one in (planned, waiting)] == [{"delivered": 1}] * 2
    assert await process.recovery.go_alone() == Redriven(0, 0)


async def test_while_the_queue_is_away_nothing_is_told_and_nothing_breaks(process: Process) -> None:
    await process.plan(await process.tell("user-01"))
    await _forget(process)
    process.clock.advance(61)
    process.queue.away = True
    assert await process.recovery.find_lost() == 0
    assert await process.recovery.compare_epochs() is None
    process.queue.away = False
    assert await process.recovery.find_lost() == 1


async def test_a_queue_that_was_emptied_is_told_everything_at_once(start: Callable[..., Process]) -> None:
    before = start()
    await before.people(*CROWD)
    assert await before.recovery.compare_epochs() == Redriven(0, 0)
    planned, waiting = await before.tell("user-01"), await before.tell("user-02")
    await before.plan(planned)
    after, other = start(), start()
    assert await after.recovery.compare_epochs() == Redriven(notifications=1, batches=1)
    assert {task.ref for task in after.queue.told} >= {waiting.id}
    assert await after.recovery.compare_epochs() is None, "the database knows the new epoch"
    assert await other.recovery.compare_epochs() is not None, "and this one is another"
    await after.work()
    assert [await after.states(one) for one in (planned, waiting)] == [{"delivered": 1}] * 2


async def test_queues_in_memory_do_not_fight_over_the_epoch(start: Callable[..., Process]) -> None:
    pair = start(), start()
    for one in pair:
        one.queue.shared = False
        await one.recovery.redrive()
    assert [await one.recovery.compare_epochs() for one in pair] == [None, None]


async def test_an_exclusive_process_takes_back_what_its_last_run_had_claimed(start: Callable[..., Process]) -> None:
    last, process = start(), start(exclusive=True)
    process.queue.shared = False
    await last.people(*CROWD)
    await _claimed(last)
    found = await process.recovery.redrive()
    assert found is not None
    assert found.claims == len(CROWD)
    await process.pipeline.wake_due()
    await process.work()
    assert len(process.wire.sent) == len(CROWD)


@pytest.mark.parametrize("shared", [True, False])
async def test_one_of_many_leaves_the_claims_of_others_to_their_leases(
    start: Callable[..., Process], shared: bool
) -> None:
    other, process = start(), start()
    process.queue.shared = shared
    await other.people(*CROWD)
    await _claimed(other)
    found = await process.recovery.redrive()
    assert found is not None
    assert found.claims == 0
    assert await process.recovery.sweep() == Released(0, 0)
    process.clock.advance(61)
    assert await process.recovery.sweep() == Released(len(CROWD), 0)
