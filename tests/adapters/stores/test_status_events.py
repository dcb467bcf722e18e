"""Status events are stored in the transaction of their cause, and claimed by one worker at a time."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import structs
from sqlalchemy import update

from tidings.model.delivery import SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus
from tidings.ports.store import MAX_WORKER_CRASHES
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.delivery_claims import QUARANTINE_REASON
from tidings.stores.repositories.status_events import BATCH_SIZE
from tidings.stores.schema.tables import deliveries
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import (
    NOW,
    create_planned_notification,
    make_attempt_result,
    make_notification,
    make_planned_delivery,
    make_subscription,
)

Json = Mapping[str, Any]
HIDDEN = NOW + timedelta(minutes=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def events_store(request: pytest.FixtureRequest) -> SqlStore:
    store: SqlStore = request.getfixturevalue("store" if request.param == "sqlite" else "postgres_store")
    store.status_events.is_enabled = True
    return store


async def read_events(store: SqlStore) -> Sequence[Json]:
    """Return the stored events and remove them."""
    async with store.transaction() as tx:
        batches = await store.status_events.claim_due(tx, NOW, hidden_until=HIDDEN, limit=100)
        await store.status_events.remove(tx, [batch.id for batch in batches])
    return [event for batch in batches for event in msgspec.json.decode(batch.events)]


@pytest.mark.parametrize(
    ("outcome", "kind", "state", "reason"),
    [
        (Accepted("taken", 201, "p", "m-1"), "delivery.delivered", "delivered", "taken"),
        (PermanentFailure("too large", 413), "delivery.failed", "refused", "too large"),
        (PermanentFailure("late", is_expired=True), "delivery.failed", "expired", "late"),
        (InvalidTarget("unknown", 410), "delivery.failed", "gone", "unknown"),
        (Uncertain("silence"), "delivery.uncertain", "uncertain", "silence"),
        (SkipRecord("n", "ana", "webpush", SkipReason.CANCELLED), "delivery.skipped", "cancelled", "cancelled"),
    ],
)
async def test_each_final_state_has_an_event(
    events_store: SqlStore, outcome: Outcome | SkipRecord, kind: str, state: str, reason: str
) -> None:
    scene = await create_planned_notification(events_store, "ana")
    [accepted] = await read_events(events_store)
    assert (accepted["type"], accepted["notificationId"]) == ("notification.accepted", scene.notification.id)
    [due] = await scene.claim(events_store)
    async with events_store.transaction() as tx:
        await events_store.deliveries.record(tx, [make_attempt_result(due, outcome)], NOW)
    [event] = await read_events(events_store)
    assert (event["type"], event["state"], event["reason"]) == (kind, state, reason)
    assert (event["deliveryId"], event["userId"], event["channel"]) == (due.id, "ana", "webpush")
    assert event.get("messageId") == getattr(outcome, "message_id", None)


async def test_what_is_not_final_or_rejected_has_no_event(events_store: SqlStore) -> None:
    scene = await create_planned_notification(events_store)
    await read_events(events_store)
    first, second = await scene.claim(events_store)
    async with events_store.transaction() as tx:
        rejected = make_attempt_result(second, Accepted(), token=first.id)
        retry = make_attempt_result(first, RetryLater(HIDDEN, "busy"))
        assert await events_store.deliveries.record(tx, [retry, rejected], NOW) == 1
    assert await read_events(events_store) == []


async def test_a_planned_skip_and_a_quarantine_have_events(events_store: SqlStore) -> None:
    scene = await create_planned_notification(events_store, "ana")
    await read_events(events_store)
    skip = SkipRecord(scene.notification.id, "ben", "email", SkipReason.PREFERENCE_OFF)
    [due] = await scene.claim(events_store)
    async with events_store.transaction() as tx:
        await events_store.deliveries.add(tx, [], [skip], NOW)
        await connection_of(tx).execute(update(deliveries).values(crashes=MAX_WORKER_CRASHES - 1))
        await events_store.deliveries.release_all_leases(tx, NOW)
    skipped, quarantined = await read_events(events_store)
    assert (skipped["type"], skipped["userId"], skipped["reason"]) == ("delivery.skipped", "ben", "preference_off")
    assert (quarantined["deliveryId"], quarantined["reason"]) == (due.id, QUARANTINE_REASON)


async def test_a_delivery_to_a_device_that_was_replaced_has_an_event(events_store: SqlStore) -> None:
    scene = await create_planned_notification(events_store, "ana")
    [old] = scene.devices
    new = make_subscription("ana", new_id(NOW))
    second = make_planned_delivery(scene.notification, "ana", new.id, batch_id=scene.batch_id)
    await read_events(events_store)
    async with events_store.transaction() as tx:
        await events_store.subscriptions.register(tx, new, replaces=None, now=NOW)
        await events_store.deliveries.add(tx, [second], [], NOW)
        await events_store.subscriptions.register(tx, new, replaces=old.endpoint, now=NOW)
    [event] = await read_events(events_store)
    assert (event["type"], event["reason"]) == ("delivery.skipped", "device_replaced")
    assert event["deliveryId"] == scene.planned[0].id


async def test_without_an_endpoint_nothing_is_stored(store: SqlStore) -> None:
    scene = await create_planned_notification(store, "ana")
    [due] = await scene.claim(store)
    async with store.transaction() as tx:
        await store.deliveries.record(tx, [make_attempt_result(due, Accepted())], NOW)
        assert not await store.status_events.has_due(tx, HIDDEN)


async def test_a_cause_that_is_rolled_back_has_no_event(events_store: SqlStore) -> None:
    async def accept_and_fail() -> None:
        async with events_store.transaction() as tx:
            await events_store.notifications.add_many(tx, [make_notification()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await accept_and_fail()
    assert await read_events(events_store) == []


async def test_a_batch_is_claimed_by_one_worker_until_its_time_is_over(events_store: SqlStore) -> None:
    events = events_store.status_events
    async with events_store.transaction() as tx:
        await events_store.notifications.add_many(tx, [make_notification() for _ in range(BATCH_SIZE + 1)])
        assert await events.has_due(tx, NOW)
        first, second = await events.claim_due(tx, NOW, hidden_until=HIDDEN, limit=9)
        assert sorted([first.count, second.count]) == [1, BATCH_SIZE]
        assert await events.claim_due(tx, NOW, hidden_until=HIDDEN, limit=9) == []
        await events.remove(tx, [first.id])
        [again] = await events.claim_due(tx, HIDDEN, hidden_until=HIDDEN, limit=9)
        assert (again.id, again.attempts) == (second.id, 2)
        await events.defer(tx, again.id, HIDDEN + timedelta(hours=1))
        assert not await events.has_due(tx, HIDDEN)
        assert await events.purge(tx, NOW) == 0
        assert await events.purge(tx, HIDDEN) == second.count


@pytest.mark.parametrize(
    ("status", "cause", "kind", "reason"),
    [
        (ReceiptStatus.BOUNCED, EventCause.HARD_BOUNCE, "delivery.bounced", "hard_bounce 5.1.1"),
        (ReceiptStatus.UNDELIVERED, EventCause.INVALID_NUMBER, "delivery.bounced", "invalid_number 5.1.1"),
        (ReceiptStatus.COMPLAINED, EventCause.COMPLAINT, "delivery.complained", "complaint 5.1.1"),
        (ReceiptStatus.DELIVERED, EventCause.NONE, None, None),
    ],
)
async def test_c55_what_a_provider_reports_later_is_an_event(
    events_store: SqlStore, status: ReceiptStatus, cause: EventCause, kind: str | None, reason: str | None
) -> None:
    scene = await create_planned_notification(events_store, "ana")
    [due] = await scene.claim(events_store)
    await read_events(events_store)
    report = ProviderEvent(
        *("email", "postmark", "e-1", NOW, status, cause),
        delivery_id=due.id,
        recipient="ana@example.org",
        code="5.1.1",
        detail="<ana@example.org> is unknown",
    )
    for _ in range(2):
        async with events_store.transaction() as tx:
            await events_store.receipts.add(tx, report, NOW)
            # of a delivery that is erased, or of another installation
            unknown = structs.replace(report, event_id="e-2", delivery_id=new_id(NOW))
            await events_store.receipts.add(tx, unknown, NOW)
            await events_store.receipts.add(tx, structs.replace(report, event_id="e-3", delivery_id="x"), NOW)
    events = await read_events(events_store)
    assert [event["type"] for event in events] == ([] if kind is None else [kind])
    if kind is not None:
        [event] = events
        assert (event["deliveryId"], event["notificationId"], event["userId"]) == (due.id, scene.notification.id, "ana")
        assert (event["state"], event["reason"], event["provider"]) == (status.value, reason, "postmark")
        assert "ana@example.org" not in str(event)
