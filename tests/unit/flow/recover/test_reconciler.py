"""The reconciler finds work that a crash or a queue reset left behind, and re-enqueues it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.flow.pipeline import PipelineConfig
from tidings.flow.recover import lost_tasks
from tidings.flow.recover.reconciler import UNUSED_RETENTION, RequeueResult
from tidings.flow.tasks import REPUBLISH_DEDUP_SECONDS
from tidings.model.alert import AlertName
from tidings.model.audience import everyone, users
from tidings.model.outcome import PermanentFailure
from tidings.model.priority import Priority
from tidings.model.subscription import SUSPEND_UNSEEN_AFTER
from tidings.model.task import Task, TaskKind
from tidings.ports.store import LeaseRelease
from tidings.testing.contracts.samples import NO_KEY, NOW

if TYPE_CHECKING:
    from tests.unit.conftest import Process

STUCK_AFTER = lost_tasks.STUCK_AFTER.total_seconds()
USERS = [f"user-{number:02}" for number in range(6)]


@pytest.fixture
async def process(process: Process) -> Process:
    await process.add_users(*USERS)
    return process


async def _reset_queue(process: Process) -> list[Task]:
    """Empty the queue. Return the tasks that were published before."""
    for lane in Priority:
        taken = await process.queue.receive_due(lane)
        await process.queue.ack(taken)
    published = list(process.queue.published)
    process.queue.published.clear()
    return published


async def _claim_and_crash(process: Process) -> None:
    """Plan a notification and claim its deliveries, as a worker that then crashes."""
    notification = await process.submit(*USERS)
    await process.plan(notification)
    batches = [task.ref for task in process.queue.published if task.kind is TaskKind.DELIVER]
    now = process.clock.now()
    async with process.store.transaction() as tx:
        await process.store.deliveries.claim(
            tx, batches, token=NO_KEY, now=now, lease_until=now + timedelta(seconds=60)
        )
    await _reset_queue(process)


async def test_a_batch_is_stuck_when_the_head_of_its_lane_is_much_younger(process: Process) -> None:
    notification = await process.submit("user-01")
    await process.plan(notification)
    [batch] = [task for task in await _reset_queue(process) if task.kind is TaskKind.DELIVER]
    process.clock.advance(STUCK_AFTER)
    assert await process.recovery.requeue_stuck() == 0
    process.clock.advance(1)
    assert await process.recovery.requeue_stuck() == 1
    [again] = process.queue.published
    assert (again.kind, again.ref, again.lane) == (batch.kind, batch.ref, batch.lane)
    assert again.generation == int(process.clock.now().timestamp()) // REPUBLISH_DEDUP_SECONDS
    await process.process_queue()
    assert await process.count_by_state(notification) == {"delivered": 1}


async def test_a_batch_behind_a_long_backlog_is_not_stuck(process: Process) -> None:
    waiting = await process.submit("user-01")
    await process.pipeline.fan_out.plan_next_pages([waiting.id])
    process.clock.advance(600)
    assert await process.recovery.requeue_stuck() == 0


async def test_each_lane_is_checked_separately(process: Process) -> None:
    urgent = await process.pipeline.submit(replace(process.build_request(users("user-01")), priority=Priority.URGENT))
    await process.plan(urgent)
    await _reset_queue(process)
    await process.plan(await process.submit("user-02"))
    process.clock.advance(STUCK_AFTER + 1)
    assert await process.recovery.requeue_stuck() == 1
    assert process.queue.published[-1].lane is Priority.URGENT


async def test_a_republished_task_is_not_republished_repeatedly(process: Process) -> None:
    await process.plan(await process.submit("user-01"))
    await _reset_queue(process)
    process.clock.advance(STUCK_AFTER + 1)
    assert await process.recovery.requeue_stuck() == 1
    for _ in range(20):
        process.clock.advance(15)
        assert await process.recovery.requeue_stuck() == 0, "it waits on its lane"
    await _reset_queue(process)
    assert await process.recovery.requeue_stuck() == 1, "and was lost once more"


async def test_two_workers_republish_the_same_task_once(start: Callable[..., Process]) -> None:
    pair = start(), start()
    await pair[0].add_users(*USERS)
    await pair[0].plan(await pair[0].submit("user-01"))
    pair[0].clock.advance(STUCK_AFTER + 5)
    pair[0].queue.published.clear()
    await _reset_queue(pair[0])
    assert [await one.recovery.requeue_stuck() for one in pair] == [1, 1]
    assert pair[0].queue.published == pair[1].queue.published


async def test_a_fan_out_without_progress_is_republished(start: Callable[..., Process]) -> None:
    process = start(sizes=PipelineConfig(page_size=2))
    await process.add_users(*USERS)
    notification = await process.submit(to=everyone())
    assert await process.recovery.requeue_stuck() == 0
    process.clock.advance(30)
    await process.pipeline.fan_out.plan_next_pages([notification.id])
    await _reset_queue(process)
    await process.recovery.requeue_stuck()
    process.clock.advance(STUCK_AFTER - 1)
    process.queue.published.clear()
    await process.recovery.requeue_stuck()
    assert [task.kind for task in process.queue.published if task.kind is TaskKind.FAN_OUT] == [], (
        "it has made progress"
    )
    process.clock.advance(1)
    await process.recovery.requeue_stuck()
    assert [task.ref for task in process.queue.published if task.kind is TaskKind.FAN_OUT] == [notification.id]
    await process.process_queue()
    process.clock.advance(1)
    await process.recovery.requeue_stuck()
    await process.process_queue()
    assert await process.count_by_state(notification) == {"delivered": len(USERS)}, (
        "the batch of the first page was lost too"
    )


async def test_a_scheduled_notification_is_not_stuck(process: Process) -> None:
    await process.pipeline.submit(replace(process.build_request(users("user-01")), send_at=NOW + timedelta(hours=1)))
    for _ in range(3):
        assert await process.recovery.requeue_stuck() == 0
        process.clock.advance(61)


async def test_open_notifications_beyond_one_scan_are_all_found(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_tasks, "_PAGE_SIZE", 2)
    monkeypatch.setattr(lost_tasks, "_MAX_PAGES", 1)
    submitted = {(await process.submit("user-01")).id for _ in range(5)}
    await _reset_queue(process)
    for _ in range(3):
        await process.recovery.requeue_stuck()
    process.clock.advance(60)
    found = [await process.recovery.requeue_stuck() for _ in range(3)]
    assert found == [2, 2, 1]
    assert {task.ref for task in process.queue.published} == submitted


async def test_open_work_of_an_unavailable_queue_is_requeued_locally(process: Process) -> None:
    planned, waiting = await process.submit("user-01"), await process.submit("user-02")
    await process.plan(planned)
    await _reset_queue(process)
    assert await process.recovery.requeue_locally() == RequeueResult(notifications=1, batches=1)
    await process.process_queue()
    assert [await process.count_by_state(one) for one in (planned, waiting)] == [{"delivered": 1}] * 2
    assert await process.recovery.requeue_locally() == RequeueResult(0, 0)


async def test_nothing_is_republished_while_the_queue_is_unavailable(process: Process) -> None:
    await process.plan(await process.submit("user-01"))
    await _reset_queue(process)
    process.clock.advance(61)
    process.queue.is_unavailable = True
    assert await process.recovery.requeue_stuck() == 0
    assert await process.recovery.detect_queue_reset() is None
    process.queue.is_unavailable = False
    assert await process.recovery.requeue_stuck() == 1


async def test_after_a_queue_reset_all_work_is_republished_at_once(start: Callable[..., Process]) -> None:
    before = start()
    await before.add_users(*USERS)
    assert await before.recovery.detect_queue_reset() == RequeueResult(0, 0)
    planned, waiting = await before.submit("user-01"), await before.submit("user-02")
    await before.plan(planned)
    after, other = start(), start()
    assert await after.recovery.detect_queue_reset() == RequeueResult(notifications=1, batches=1)
    assert {task.ref for task in after.queue.published} >= {waiting.id}
    assert await after.recovery.detect_queue_reset() is None, "the database knows the new epoch"
    assert await other.recovery.detect_queue_reset() is not None, "and this one is another"
    await after.process_queue()
    assert [await after.count_by_state(one) for one in (planned, waiting)] == [{"delivered": 1}] * 2


async def test_in_memory_queues_do_not_overwrite_the_epoch(start: Callable[..., Process]) -> None:
    pair = start(), start()
    for one in pair:
        one.queue.is_shared = False
        await one.recovery.recover_on_start()
    assert [await one.recovery.detect_queue_reset() for one in pair] == [None, None]


async def test_an_exclusive_process_releases_the_claims_of_its_last_run(start: Callable[..., Process]) -> None:
    last, process = start(), start(exclusive=True)
    process.queue.is_shared = False
    await last.add_users(*USERS)
    await _claim_and_crash(last)
    found = await process.recovery.recover_on_start()
    assert found is not None
    assert found.claims == len(USERS)
    await process.pipeline.batch_due()
    await process.process_queue()
    assert len(process.channel.sent) == len(USERS)


@pytest.mark.parametrize("shared", [True, False])
async def test_one_of_several_processes_does_not_release_claims_of_others(
    start: Callable[..., Process], shared: bool
) -> None:
    other, process = start(), start()
    process.queue.is_shared = shared
    await other.add_users(*USERS)
    await _claim_and_crash(other)
    found = await process.recovery.recover_on_start()
    assert found is not None
    assert found.claims == 0
    assert await process.recovery.reap_expired_leases() == LeaseRelease(0, 0)
    process.clock.advance(61)
    assert await process.recovery.reap_expired_leases() == LeaseRelease(len(USERS), 0)


async def test_maintenance_suspends_devices_that_were_neither_seen_nor_reached(process: Process) -> None:
    seen, reached, unseen = USERS[:3]
    process.clock.advance(SUSPEND_UNSEEN_AFTER.total_seconds())
    await process.add_users(seen)
    await process.submit(reached)
    await process.process_queue()
    process.clock.advance(1)
    await process.recovery.purge()
    assert {name: await _device_states(process, name) for name in (seen, reached, unseen)} == {
        seen: ["active"],
        reached: ["active"],
        unseen: ["suspended"],
    }
    process.clock.advance(UNUSED_RETENTION.total_seconds() + 1)
    await process.recovery.purge()
    assert await _device_states(process, unseen) == []


async def _device_states(process: Process, user_id: str) -> list[str]:
    async with process.store.read_snapshot() as tx:
        return [device.state.value for device in await process.store.subscriptions.list_by_user(tx, user_id)]


async def test_a_device_refused_three_times_for_an_unknown_reason_receives_nothing_more(process: Process) -> None:
    why = "the push service answered 400: odd"
    process.channel.respond = lambda _message: PermanentFailure(why, 400, is_target_suspect=True)
    for _ in range(5):
        notification = await process.submit(USERS[0])
        await process.process_queue()
    assert len(process.channel.sent) == 3
    counts = await process.get_counts(notification)
    assert (counts.deliveries, counts.skipped) == (0, 1)
    assert await _device_states(process, USERS[0]) == ["suspended"]
    raised = [(alert.name, alert.subject) for alert in process.alerts.list_active()]
    assert raised == [(AlertName.PUSH_DEVICES_SUSPENDED, "push.example")]
