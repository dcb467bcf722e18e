"""A cancellation is final in every process, within a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.errors import BackendError, Conflict, NotFound
from tidings.flow.deliver import cancellation
from tidings.flow.deliver.cancellation import BARRIER_TIMEOUT
from tidings.flow.deliver.freshness import MAX_STALENESS
from tidings.model.audience import users
from tidings.model.delivery import ClaimedDelivery
from tidings.model.task import TaskKind
from tidings.testing.contracts.samples import NO_KEY

if TYPE_CHECKING:
    from tests.unit.conftest import Process

USERS = [f"user-{number:02}" for number in range(15)]
#: maximum of sends in flight of one process: ten slots, of which one is reserved for urgent sends
MAX_IN_FLIGHT = 9


@pytest.fixture
async def pair(start: Callable[..., Process]) -> tuple[Process, Process]:
    """Two workers on one database."""
    first, second = start(), start()
    await first.add_users(*USERS)
    return first, second


async def _start_sending(process: Process) -> tuple[str, asyncio.Task[None]]:
    """Start sending to all users over a blocked channel. Return the notification's id and the task."""
    notification = await process.submit(*USERS)
    await process.plan(notification)
    [batch] = [task.ref for task in process.queue.published if task.kind is TaskKind.DELIVER]
    process.channel.unblocked.clear()
    task = asyncio.create_task(process.pipeline.delivery_runner.deliver([batch], process.sender))
    await _wait_until(lambda: len(process.channel.sent) == MAX_IN_FLIGHT)
    return notification.id, task


async def _wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def _within_a_second(call: Awaitable[None]) -> None:
    async with asyncio.timeout(1):
        await call


async def test_nothing_is_sent_after_the_confirmation_even_if_another_worker_had_claimed_it(
    pair: tuple[Process, Process],
) -> None:
    working, other = pair
    notification_id, sending = await _start_sending(working)
    cancelling = asyncio.create_task(other.pipeline.cancel(notification_id))
    await asyncio.wait([cancelling], timeout=0.2)
    assert not cancelling.done(), "the other worker has not heard of it"
    await working.pipeline.cancellations.refresh(working.sender.held_notification_ids)
    working.channel.unblocked.set()
    await asyncio.gather(cancelling, sending)
    assert len(working.channel.sent) == MAX_IN_FLIGHT, "what was in flight"
    async with other.store.read_snapshot() as tx:
        counts = await other.store.notifications.get_counts(tx, notification_id)
    assert counts.by_state == {"delivered": MAX_IN_FLIGHT, "cancelled": len(USERS) - MAX_IN_FLIGHT}


async def test_scheduled_deliveries_of_a_cancelled_notification_do_not_stay_pending(
    start: Callable[..., Process],
) -> None:
    process = start()
    await process.add_users("ana")
    later = process.clock.now() + timedelta(hours=1)
    request = replace(process.build_request(users("ana")), send_at=later)
    notification, other = await process.pipeline.submit(request), await process.pipeline.submit(request)
    await process.pipeline.cancel(notification.id)
    async with process.store.read_snapshot() as tx:
        assert [task.ref for task in await process.store.outbox.list_due(tx, later, 10)] == [other.id]


async def test_a_cancellation_without_claims_does_not_wait(pair: tuple[Process, Process]) -> None:
    working, other = pair
    notification = await working.submit(*USERS)
    await working.plan(notification)
    await _within_a_second(other.pipeline.cancel(notification.id))
    await working.process_queue()
    assert working.channel.sent == []
    assert await working.count_by_state(notification) == {"cancelled": len(USERS)}


async def test_an_exclusive_process_does_not_wait(start: Callable[..., Process]) -> None:
    process = start(exclusive=True)
    await process.add_users(*USERS)
    notification_id, sending = await _start_sending(process)
    await _within_a_second(process.pipeline.cancel(notification_id))
    process.channel.unblocked.set()
    await sending
    assert len(process.channel.sent) == MAX_IN_FLIGHT


async def test_the_barrier_timeout_exceeds_the_maximum_staleness() -> None:
    assert timedelta(seconds=BARRIER_TIMEOUT) > MAX_STALENESS + timedelta(seconds=1)


async def test_a_claim_of_a_dead_worker_delays_a_cancellation_for_a_bounded_time(
    pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "BARRIER_TIMEOUT", 0.1)
    process, _ = pair
    notification = await process.submit("user-01")
    await process.plan(notification)
    [batch] = [task.ref for task in process.queue.published if task.kind is TaskKind.DELIVER]
    now = process.clock.now()
    async with process.store.transaction() as tx:
        await process.store.deliveries.claim(tx, [batch], token=NO_KEY, now=now, lease_until=now)
    await _within_a_second(process.pipeline.cancel(notification.id))
    process.clock.advance(61)
    await process.recovery.reap_expired_leases()
    await process.pipeline.batch_due()
    await process.process_queue()
    assert process.channel.sent == []
    assert await process.count_by_state(notification) == {"cancelled": 1}


async def test_a_worker_reads_old_data_again_before_it_sends(pair: tuple[Process, Process]) -> None:
    working, other = pair
    notification_id, sending = await _start_sending(working)
    async with other.store.transaction() as tx:
        await other.store.notifications.cancel(tx, notification_id)
    working.clock.advance(MAX_STALENESS + timedelta(seconds=1))  # without a refresh meanwhile
    working.channel.unblocked.set()
    await sending
    assert len(working.channel.sent) == MAX_IN_FLIGHT


async def test_nothing_is_sent_while_old_data_cannot_be_read_again(
    pair: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    working, _ = pair
    _, sending = await _start_sending(working)
    reads = 0

    async def fail(*_arguments: object) -> Sequence[ClaimedDelivery]:
        nonlocal reads
        reads += 1
        raise BackendError("the database does not answer", retry_after=0.01)

    working.clock.advance(MAX_STALENESS + timedelta(seconds=1))
    with monkeypatch.context() as broken:
        broken.setattr(working.store.deliveries, "reload", fail)
        working.channel.unblocked.set()
        await _wait_until(lambda: reads >= 3)
        assert len(working.channel.sent) == MAX_IN_FLIGHT
    async with asyncio.timeout(5):
        await sending
    assert len(working.channel.sent) == len(USERS)


async def test_cancelling_again_succeeds_and_a_finished_notification_cannot_be_cancelled(process: Process) -> None:
    await process.add_users("ana")
    waiting, over = await process.submit("ana"), await process.submit("ana")
    for _ in range(2):
        await process.pipeline.cancel(waiting.id)
    await process.process_queue()
    with pytest.raises(Conflict):
        await process.pipeline.cancel(over.id)
    with pytest.raises(NotFound):
        await process.pipeline.cancel(NO_KEY)
