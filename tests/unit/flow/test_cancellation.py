"""Cancelling is final in every process, and takes no longer than it must."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.errors import BackendError, Conflict, NotFound
from tidings.flow import cancellation
from tidings.flow.cancellation import PATIENCE, TRUSTED_FOR
from tidings.model.audience import users
from tidings.model.task import TaskKind
from tidings.testing.contracts.samples import NO_KEY

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process

CROWD = [f"user-{number:02}" for number in range(15)]
#: sends that one process of these tests has in flight at most: ten, of which one is kept for urgent ones
PLACES = 9


@pytest.fixture
async def pair(start: Callable[..., Process]) -> tuple[Process, Process]:
    """Two workers on one database."""
    first, second = start(), start()
    await first.people(*CROWD)
    return first, second


async def _sending(process: Process) -> tuple[str, asyncio.Task[None]]:
    """Have a process send to everybody over a slow wire. Returns the notification's id, and the task."""
    notification = await process.tell(*CROWD)
    await process.plan(notification)
    [batch] = [task.ref for task in process.queue.told if task.kind is TaskKind.DELIVER]
    process.wire.open_.clear()
    task = asyncio.create_task(process.pipeline.deliver([batch], process.sender))
    await _until(lambda: len(process.wire.sent) == PLACES)
    return notification.id, task


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def _promptly(call: Awaitable[None]) -> None:
    async with asyncio.timeout(1):
        await call


async def test_nothing_is_sent_once_it_is_confirmed_although_another_worker_had_claimed_it(
    pair: tuple[Process, Process],
) -> None:
    working, other = pair
    notification_id, sending = await _sending(working)
    cancelling = asyncio.create_task(other.pipeline.cancel(notification_id))
    await asyncio.wait([cancelling], timeout=0.2)
    assert not cancelling.done(), "the other worker has not heard of it"
    await working.pipeline.learn_cancellations(working.sender.held)
    working.wire.open_.set()
    await asyncio.gather(cancelling, sending)
    assert len(working.wire.sent) == PLACES, "what was in flight"
    async with other.store.read() as tx:
        counts = await other.store.notifications.counts(tx, notification_id)
    assert counts.by_state == {"delivered": PLACES, "cancelled": len(CROWD) - PLACES}


async def test_nothing_of_it_waits_for_its_time(start: Callable[..., Process]) -> None:
    process = start()
    await process.people("ana")
    later = process.clock.now() + timedelta(hours=1)
    asked = replace(process.asks(users("ana")), send_at=later)
    notification, other = await process.pipeline.submit(asked), await process.pipeline.submit(asked)
    await process.pipeline.cancel(notification.id)
    async with process.store.read() as tx:
        assert [task.ref for task in await process.store.outbox.due(tx, later, 10)] == [other.id]


async def test_it_is_not_waited_for_when_nothing_is_claimed(pair: tuple[Process, Process]) -> None:
    working, other = pair
    notification = await working.tell(*CROWD)
    await working.plan(notification)
    await _promptly(other.pipeline.cancel(notification.id))
    await working.work()
    assert working.wire.sent == []
    assert await working.states(notification) == {"cancelled": len(CROWD)}


async def test_an_only_sender_waits_for_nothing(start: Callable[..., Process]) -> None:
    process = start(exclusive=True)
    await process.people(*CROWD)
    notification_id, sending = await _sending(process)
    await _promptly(process.pipeline.cancel(notification_id))
    process.wire.open_.set()
    await sending
    assert len(process.wire.sent) == PLACES


async def test_a_worker_that_does_not_answer_is_waited_for_longer_than_it_trusts_what_it_knows() -> None:
    assert timedelta(seconds=PATIENCE) > TRUSTED_FOR + timedelta(seconds=1)


async def test_a_claim_of_a_dead_worker_does_not_hold_up_a_cancellation_for_ever(
    pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "PATIENCE", 0.1)
    process, _ = pair
    notification = await process.tell("user-01")
    await process.plan(notification)
    [batch] = [task.ref for task in process.queue.told if task.kind is TaskKind.DELIVER]
    now = process.clock.now()
    async with process.store.begin() as tx:
        await process.store.deliveries.claim(tx, [batch], token=NO_KEY, now=now, lease_until=now)
    await _promptly(process.pipeline.cancel(notification.id))
    process.clock.advance(61)
    await process.recovery.sweep()
    await process.pipeline.wake_due()
    await process.work()
    assert process.wire.sent == []
    assert await process.states(notification) == {"cancelled": 1}


async def test_a_worker_that_heard_nothing_for_a_while_looks_before_it_sends(pair: tuple[Process, Process]) -> None:
    working, other = pair
    notification_id, sending = await _sending(working)
    async with other.store.begin() as tx:
        await other.store.notifications.cancel(tx, notification_id)
    working.clock.advance(TRUSTED_FOR + timedelta(seconds=1))  # its timers did not go round meanwhile
    working.wire.open_.set()
    await sending
    assert len(working.wire.sent) == PLACES


async def test_while_nobody_can_tell_what_was_cancelled_nothing_is_sent(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.people("ana")
    notification = await process.tell("ana")
    await process.plan(notification)
    looks = 0

    async def away(*_arguments: object) -> set[str]:
        nonlocal looks
        looks += 1
        raise BackendError("the database does not answer", retry_after=0.01)

    with monkeypatch.context() as broken:
        broken.setattr(process.store.notifications, "cancelled", away)
        sending = asyncio.create_task(process.work())
        await _until(lambda: looks >= 3)
        assert process.wire.sent == []
    async with asyncio.timeout(5):
        await sending
    assert await process.states(notification) == {"delivered": 1}


async def test_asked_again_the_answer_is_the_same_and_what_is_over_cannot_be_cancelled(process: Process) -> None:
    await process.people("ana")
    waiting, over = await process.tell("ana"), await process.tell("ana")
    for _ in range(2):
        await process.pipeline.cancel(waiting.id)
    await process.work()
    with pytest.raises(Conflict):
        await process.pipeline.cancel(over.id)
    with pytest.raises(NotFound):
        await process.pipeline.cancel(NO_KEY)
