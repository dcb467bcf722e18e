"""What is claimed is sent or given back; what a worker died with is sent with nothing of its kind beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from tidings.errors import BackendError
from tidings.flow.deliver.send import Job
from tidings.model.audience import everyone
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.task import TaskKind

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process

CROWD = [f"user-{number:02}" for number in range(6)]


@pytest.fixture
async def process(process: Process) -> Process:
    await process.people(*CROWD)
    return process


async def _batch(process: Process, notification: Notification) -> str:
    await process.plan(notification)
    return [task.ref for task in process.queue.told if task.kind is TaskKind.DELIVER][-1]


async def _after_a_crash(process: Process, *names: str) -> Notification:
    """A notification that another worker had claimed when it died; its lease has run out."""
    notification = await process.tell(*names)
    batch_id = await _batch(process, notification)
    now = process.clock.now()
    async with process.store.begin() as tx:
        await process.store.deliveries.claim(tx, [batch_id], token=notification.id, now=now, lease_until=now)
    process.clock.advance(1)
    await process.recovery.sweep()
    process.queue.told.clear()
    return notification


async def test_notifications_that_share_a_batch_are_read_together(process: Process) -> None:
    async def statements(count: int) -> int:
        told = [await process.tell("user-01") for _ in range(count)]
        process.clock.advance(5)  # long enough to look again at audiences that must be looked up
        await process.plan(*told)
        process.clock.advance(5)
        process.writes_at_once = False
        batch_ids = [task.ref for task in process.queue.told if task.kind is TaskKind.DELIVER]
        before = process.store.statements
        await process.pipeline.deliver(batch_ids[-1:], process.sender)
        spent = process.store.statements - before
        await process.write()
        return spent

    assert await statements(50) == await statements(1)
    assert len(process.wire.sent) == 51


async def test_who_left_the_audience_since_gets_nothing(process: Process) -> None:
    notification = await process.tell(to=everyone())
    batch_id = await _batch(process, notification)
    process.clock.advance(5)
    async with process.store.begin() as tx:
        await process.store.users.erase(tx, "user-03")
    await process.pipeline.deliver([batch_id], process.sender)
    assert len(process.wire.sent) == len(CROWD) - 1


async def test_a_claim_that_fails_before_a_send_is_given_back_and_is_nobodys_crash(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, process = start(), start()
    await planning.people("user-01")
    notification = await planning.tell("user-01")
    batch_id = await _batch(planning, notification)

    async def away(*_arguments: object) -> None:
        raise BackendError("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(process.store.notifications, "get_many", away)
        with pytest.raises(BackendError):
            await process.pipeline.deliver([batch_id], process.sender)
    assert await process.states(notification) == {"sending": 1}
    assert await process.pipeline.wake_due() == 1
    assert process.queue.told[-1].kind is TaskKind.DELIVER, "not suspected of anything"
    await process.work()
    assert await process.states(notification) == {"delivered": 1}


async def test_what_is_cut_off_at_the_end_of_a_drain_is_given_back(process: Process) -> None:
    notification = await process.tell(*CROWD)
    batch_id = await _batch(process, notification)
    process.wire.open_.clear()
    sending = asyncio.create_task(process.pipeline.deliver([batch_id], process.sender))
    async with asyncio.timeout(5):
        while not process.wire.sent:
            await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await process.pipeline.give_back()
    assert await process.states(notification) == {"pending": len(CROWD)}
    await process.pipeline.wake_due()
    assert process.queue.told[-1].kind is TaskKind.DELIVER, "an orderly stop is not a crash"


async def test_what_a_worker_died_with_goes_alone(process: Process) -> None:
    notification = await _after_a_crash(process, *CROWD[:3])
    await process.pipeline.wake_due()
    assert [task.kind for task in process.queue.told] == [TaskKind.DELIVER_ALONE] * 3
    process.wire.open_.clear()
    tasks = [
        asyncio.create_task(process.pipeline.deliver_alone(task.ref, process.sender)) for task in process.queue.told
    ]
    await asyncio.wait(tasks, timeout=0.1)
    assert len(process.wire.sent) == 1
    process.wire.open_.set()
    await asyncio.gather(*tasks)
    assert (len(process.wire.sent), process.wire.most) == (3, 1)
    assert await process.states(notification) == {"delivered": 3}


async def test_the_next_one_waits_until_the_outcome_of_the_last_is_written(process: Process) -> None:
    notification = await _after_a_crash(process, *CROWD[:2])
    await process.pipeline.wake_due()
    process.writes_at_once = False
    tasks = [
        asyncio.create_task(process.pipeline.deliver_alone(task.ref, process.sender)) for task in process.queue.told
    ]
    for sent in (1, 2):
        async with asyncio.timeout(5):
            await process.hurried.wait()
        await asyncio.wait(tasks, timeout=0.05)
        assert len(process.wire.sent) == sent
        process.hurried.clear()
        await process.write()
    await asyncio.gather(*tasks)
    assert await process.states(notification) == {"delivered": 2}


async def test_one_that_has_nothing_to_send_holds_up_nobody(process: Process) -> None:
    notification = await _after_a_crash(process, "user-01")
    await process.pipeline.wake_due()
    [task] = process.queue.told
    for _ in range(2):
        async with asyncio.timeout(5):
            await process.pipeline.deliver_alone(task.ref, process.sender)
    assert await process.states(notification) == {"delivered": 1}


async def test_after_three_dead_workers_it_is_quarantined_and_the_others_arrive(process: Process) -> None:
    notification = await _after_a_crash(process, *CROWD[:3])
    for _ in range(2):
        process.queue.told.clear()
        await process.pipeline.wake_due()
        for task in process.queue.told:
            now = process.clock.now()
            async with process.store.begin() as tx:
                [due] = await process.store.deliveries.claim(tx, [task.ref], token=task.ref, now=now, lease_until=now)
                if due.user_id != "user-01":  # at that one the worker dies, and its claim stays
                    await process.store.deliveries.give_back(tx, [task.ref], now)
        process.clock.advance(1)
        await process.recovery.sweep()
    assert await process.states(notification) == {"pending": 2, "refused": 1}
    await process.pipeline.wake_due()
    await process.work()
    assert await process.states(notification) == {"delivered": 2, "refused": 1}


async def test_what_is_done_for_many_is_done_one_after_the_other_and_urgent_work_beside_it(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []
    together: list[list[str]] = []
    go_on = asyncio.Event()

    async def claimed(batch_ids: Sequence[str], _token: str) -> Sequence[Job]:
        inside.append(batch_ids[0])
        together.append(sorted(inside))
        await go_on.wait()
        inside.remove(batch_ids[0])
        return []

    monkeypatch.setattr(process.pipeline._claiming, "_claimed", claimed)
    deliver = process.pipeline.deliver
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for name in ("one", "two"):
            group.create_task(deliver([name], process.sender))
        group.create_task(deliver(["urgent"], process.sender, urgent=True))
        while len(together) < 2:
            await asyncio.sleep(0)
        # outcomes wait for none of it: while they did, leases could run out
        await process.pipeline.record([])
        assert len(together) == 2
        go_on.set()
    assert together == [["one"], ["one", "urgent"], ["two"]]


async def test_what_goes_alone_and_is_urgent_does_not_wait_for_what_is_done_for_many(process: Process) -> None:
    async with asyncio.timeout(10), process.pipeline._bulk:
        await process.pipeline.deliver_alone(new_id(process.clock.now()), process.sender, urgent=True)
