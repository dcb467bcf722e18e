"""Claimed deliveries are sent or released. Those of a crashed worker are sent separately."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from tidings.errors import BackendError
from tidings.flow.deliver.preflight import DeliveryJob
from tidings.model.audience import everyone
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.task import TaskKind

if TYPE_CHECKING:
    from tests.unit.conftest import Process

USERS = [f"user-{number:02}" for number in range(6)]


@pytest.fixture
async def process(process: Process) -> Process:
    await process.add_users(*USERS)
    return process


async def _batch(process: Process, notification: Notification) -> str:
    await process.plan(notification)
    return [task.ref for task in process.queue.published if task.kind is TaskKind.DELIVER][-1]


async def _after_a_crash(process: Process, *names: str) -> Notification:
    """Return a notification whose lease has expired after the crash of another worker."""
    notification = await process.submit(*names)
    batch_id = await _batch(process, notification)
    now = process.clock.now()
    async with process.store.transaction() as tx:
        await process.store.deliveries.claim(tx, [batch_id], token=notification.id, now=now, lease_until=now)
    process.clock.advance(1)
    await process.recovery.reap_expired_leases()
    process.queue.published.clear()
    return notification


async def test_notifications_that_share_a_batch_are_read_together(process: Process) -> None:
    async def statements(count: int) -> int:
        notifications = [await process.submit("user-01") for _ in range(count)]
        process.clock.advance(5)  # long enough that audience membership is checked again
        await process.plan(*notifications)
        process.clock.advance(5)
        process.writes_immediately = False
        batch_ids = [task.ref for task in process.queue.published if task.kind is TaskKind.DELIVER]
        before = process.store.statement_count
        await process.pipeline.delivery_runner.deliver(batch_ids[-1:], process.sender)
        spent = process.store.statement_count - before
        await process.write()
        return spent

    assert await statements(50) == await statements(1)
    assert len(process.channel.sent) == 51


async def test_a_user_who_left_the_audience_gets_nothing(process: Process) -> None:
    notification = await process.submit(to=everyone())
    batch_id = await _batch(process, notification)
    process.clock.advance(5)
    async with process.store.transaction() as tx:
        await process.store.users.erase(tx, "user-03")
    await process.pipeline.delivery_runner.deliver([batch_id], process.sender)
    assert len(process.channel.sent) == len(USERS) - 1


async def test_a_claim_that_fails_before_a_send_is_released_without_a_crash_count(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, process = start(), start()
    await planning.add_users("user-01")
    notification = await planning.submit("user-01")
    batch_id = await _batch(planning, notification)

    async def fail(*_arguments: object) -> None:
        raise BackendError("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(process.store.notifications, "get_many", fail)
        with pytest.raises(BackendError):
            await process.pipeline.delivery_runner.deliver([batch_id], process.sender)
    assert await process.count_by_state(notification) == {"sending": 1}
    assert await process.pipeline.batch_due() == 1
    assert process.queue.published[-1].kind is TaskKind.DELIVER, "no crash is counted"
    await process.process_queue()
    assert await process.count_by_state(notification) == {"delivered": 1}


async def test_claims_interrupted_at_the_end_of_a_drain_are_released(process: Process) -> None:
    notification = await process.submit(*USERS)
    batch_id = await _batch(process, notification)
    process.channel.unblocked.clear()
    sending = asyncio.create_task(process.pipeline.delivery_runner.deliver([batch_id], process.sender))
    async with asyncio.timeout(5):
        while not process.channel.sent:
            await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await process.pipeline.delivery_runner.release_claims()
    assert await process.count_by_state(notification) == {"pending": len(USERS)}
    await process.pipeline.batch_due()
    assert process.queue.published[-1].kind is TaskKind.DELIVER, "an orderly stop is not a crash"


async def test_deliveries_of_a_crashed_worker_are_sent_separately(process: Process) -> None:
    notification = await _after_a_crash(process, *USERS[:3])
    await process.pipeline.batch_due()
    assert [task.kind for task in process.queue.published] == [TaskKind.DELIVER_ALONE] * 3
    process.channel.unblocked.clear()
    tasks = [
        asyncio.create_task(process.pipeline.delivery_runner.deliver_separately(task.ref, process.sender))
        for task in process.queue.published
    ]
    await asyncio.wait(tasks, timeout=0.1)
    assert len(process.channel.sent) == 1
    process.channel.unblocked.set()
    await asyncio.gather(*tasks)
    assert (len(process.channel.sent), process.channel.max_in_flight) == (3, 1)
    assert await process.count_by_state(notification) == {"delivered": 3}


async def test_the_next_separate_delivery_waits_until_the_last_outcome_is_written(process: Process) -> None:
    notification = await _after_a_crash(process, *USERS[:2])
    await process.pipeline.batch_due()
    process.writes_immediately = False
    tasks = [
        asyncio.create_task(process.pipeline.delivery_runner.deliver_separately(task.ref, process.sender))
        for task in process.queue.published
    ]
    for sent in (1, 2):
        async with asyncio.timeout(5):
            await process.flush_requested.wait()
        await asyncio.wait(tasks, timeout=0.05)
        assert len(process.channel.sent) == sent
        process.flush_requested.clear()
        await process.write()
    await asyncio.gather(*tasks)
    assert await process.count_by_state(notification) == {"delivered": 2}


async def test_a_separate_delivery_with_nothing_to_send_does_not_delay_others(process: Process) -> None:
    notification = await _after_a_crash(process, "user-01")
    await process.pipeline.batch_due()
    [task] = process.queue.published
    for _ in range(2):
        async with asyncio.timeout(5):
            await process.pipeline.delivery_runner.deliver_separately(task.ref, process.sender)
    assert await process.count_by_state(notification) == {"delivered": 1}


async def test_after_three_worker_crashes_a_delivery_is_quarantined_and_the_others_are_sent(process: Process) -> None:
    notification = await _after_a_crash(process, *USERS[:3])
    for _ in range(2):
        process.queue.published.clear()
        await process.pipeline.batch_due()
        for task in process.queue.published:
            now = process.clock.now()
            async with process.store.transaction() as tx:
                [due] = await process.store.deliveries.claim(tx, [task.ref], token=task.ref, now=now, lease_until=now)
                if due.user_id != "user-01":  # at this delivery the worker crashes and its claim stays
                    await process.store.deliveries.release_by_token(tx, [task.ref], now)
        process.clock.advance(1)
        await process.recovery.reap_expired_leases()
    assert await process.count_by_state(notification) == {"pending": 2, "refused": 1}
    await process.pipeline.batch_due()
    await process.process_queue()
    assert await process.count_by_state(notification) == {"delivered": 2, "refused": 1}


async def test_bulk_work_runs_serially_and_urgent_work_in_parallel(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []
    together: list[list[str]] = []
    go_on = asyncio.Event()

    async def claimed(batch_ids: Sequence[str], _token: str) -> Sequence[DeliveryJob]:
        inside.append(batch_ids[0])
        together.append(sorted(inside))
        await go_on.wait()
        inside.remove(batch_ids[0])
        return []

    monkeypatch.setattr(process.pipeline.delivery_runner, "_claim", claimed)
    deliver = process.pipeline.delivery_runner.deliver
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for name in ("one", "two"):
            group.create_task(deliver([name], process.sender))
        group.create_task(deliver(["urgent"], process.sender, urgent=True))
        while len(together) < 2:
            await asyncio.sleep(0)
        # outcomes are recorded in parallel, otherwise leases could expire
        await process.pipeline.record([])
        assert len(together) == 2
        go_on.set()
    assert together == [["one"], ["one", "urgent"], ["two"]]


async def test_urgent_separate_deliveries_do_not_wait_for_bulk_work(process: Process) -> None:
    async with asyncio.timeout(10), process.pipeline._bulk_lock:
        await process.pipeline.delivery_runner.deliver_separately(
            new_id(process.clock.now()), process.sender, urgent=True
        )


async def test_c31_due_deliveries_are_batched_in_turn_with_other_bulk_work(process: Process) -> None:
    notification = await _after_a_crash(process, *USERS[:2])
    async with asyncio.timeout(10), process.pipeline._bulk_lock:
        batching = asyncio.create_task(process.pipeline.batch_due())
        await asyncio.wait([batching], timeout=0.1)
        assert not batching.done()
        # urgent work does not wait for its turn
        await process.submit("user-01")
    assert await batching == 2
    assert await process.count_by_state(notification) == {"pending": 2}
