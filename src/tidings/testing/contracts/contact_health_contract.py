"""Suite for `ports.contact_health`: failures of contact points in a row, and what a disabled one missed."""

from dataclasses import replace
from datetime import datetime, timedelta

from msgspec import structs

from tidings.model.audience import users
from tidings.model.contact_health import ContactHealth, ContactResult, DisabledContactPoint
from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.delivery import DeliveryState, PlannedDelivery, SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import PermanentFailure
from tidings.model.priority import Lane
from tidings.model.user import User
from tidings.ports.store import Store, Transaction
from tidings.testing.contracts.samples import LEASE, NOW, make_attempt_result, make_notification

LIMIT = timedelta(days=5)


def make_endpoint() -> ContactPoint:
    """Return a contact point whose channel disables those that fail."""
    return ContactPoint(new_id(NOW), "ana", "hook", "https://hooks.example/", "Orders", created_at=NOW, secrets=("s",))


def make_failure(point: ContactPoint, at: datetime) -> ContactResult:
    """Return the result of an attempt that failed at an instant."""
    return ContactResult(point.id, point.version, 1, failing_since=at, last_error="it broke", disable_after=LIMIT)


async def _store_endpoint(store: Store, tx: Transaction) -> ContactPoint:
    point = make_endpoint()
    await store.users.upsert(tx, [User("ana")], NOW)
    await store.contact_points.add(tx, [point], NOW)
    return point


async def _state(store: Store, tx: Transaction) -> ContactPointState:
    [point] = await store.contact_points.list_by_user(tx, "ana")
    return point.state


class ContactHealthContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_c74_a_contact_point_that_only_fails_for_days_is_disabled_once(self, store: Store) -> None:
        health = store.contact_health
        async with store.transaction() as tx:
            point = await _store_endpoint(store, tx)
            for hours in (0, 60, 119):
                at = NOW + timedelta(hours=hours)
                assert await health.record(tx, [make_failure(point, at)], at) == []
            assert await _state(store, tx) is ContactPointState.ACTIVE
            late = NOW + LIMIT
            [disabled] = await health.record(tx, [make_failure(point, late)], late)
            assert disabled == DisabledContactPoint(point.id, "ana", "hook", "Orders", NOW, "it broke", False)
            assert await _state(store, tx) is ContactPointState.DISABLED
            # the outcomes of sends that were in flight
            assert await health.record(tx, [make_failure(point, late)], late) == []
            assert await health.get(tx, point.id) == ContactHealth(NOW, 5, "it broke", NOW)

    async def test_a_success_begins_the_days_anew(self, store: Store) -> None:
        health = store.contact_health
        async with store.transaction() as tx:
            point = await _store_endpoint(store, tx)
            await health.record(tx, [make_failure(point, NOW)], NOW)
            await health.record(tx, [ContactResult(point.id, 1, 0, is_reached=True, disable_after=LIMIT)], NOW)
            assert await health.get(tx, point.id) == ContactHealth()
            late = NOW + LIMIT
            assert await health.record(tx, [make_failure(point, late)], late) == []
            assert (await health.get(tx, point.id)).failing_since == late

    async def test_an_outcome_of_an_earlier_version_disables_nothing(self, store: Store) -> None:
        async with store.transaction() as tx:
            point = await _store_endpoint(store, tx)
            refused = structs.replace(make_failure(point, NOW), is_refusing=True, version=7)
            assert await store.contact_health.record(tx, [refused], NOW) == []
            [disabled] = await store.contact_health.record(tx, [structs.replace(refused, version=1)], NOW)
            assert disabled.is_refusing
            later = structs.replace(point, state=ContactPointState.ACTIVE, version=2, secrets=("t", "s"))
            await store.contact_points.update(tx, later, NOW)
            assert await store.contact_points.get_locked(tx, "ana", point.id) == later
            assert await store.contact_points.get_locked(tx, "ben", point.id) is None
            assert await store.contact_health.record(tx, [structs.replace(refused, version=1)], NOW) == []
            assert await _state(store, tx) is ContactPointState.ACTIVE

    async def test_what_a_contact_point_missed_is_replayed_once(self, store: Store) -> None:
        health = store.contact_health
        async with store.transaction() as tx:
            point = await _store_endpoint(store, tx)
            failed, skipped, cancelled = [_make_fanned_out() for _ in range(3)]
            cancelled = replace(cancelled, state=NotificationState.CANCELLED)
            expired = replace(_make_fanned_out(), expires_at=NOW)
            await store.notifications.add_many(tx, [failed, skipped, cancelled, expired])
            batch = new_id(NOW)
            planned = PlannedDelivery(new_id(NOW), failed.id, "ana", "hook", point.id, batch, Lane.HIGH, NOW, "rule")
            skips = [
                SkipRecord(one.id, "ana", "hook", SkipReason.NO_CONTACT_POINT) for one in (skipped, cancelled, expired)
            ]
            await store.deliveries.add(tx, [planned], skips, NOW)
            [claimed] = await store.deliveries.claim(tx, [batch], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
            await store.deliveries.record(tx, [make_attempt_result(claimed, PermanentFailure("it broke"))], NOW)
            found = await health.list_missed(tx, point, NOW, limit=1, now=NOW)
            assert (found.count, found.has_more) == (1, True)
            found = await health.list_missed(tx, point, NOW, limit=9, now=NOW)
            assert (found.delivery_ids, found.notification_ids, found.has_more) == ((planned.id,), (skipped.id,), False)
            await health.replay(tx, point, found, NOW)
            assert (await health.list_missed(tx, point, NOW, limit=9, now=NOW)).count == 0
            for one in (failed, skipped):
                counts = await store.notifications.get_counts(tx, one.id)
                assert counts.by_state == {DeliveryState.PENDING.value: 1}
            # the one that was skipped has become a delivery
            assert (counts.deliveries, counts.skipped) == (1, 0)
            tasks = await store.deliveries.batch_due(tx, NOW, 10)
            again = await store.deliveries.claim(
                tx, [task.ref for task in tasks], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE
            )
            assert {one.notification_id for one in again} == {failed.id, skipped.id}

    async def test_what_only_another_contact_point_received_is_missed(self, store: Store) -> None:
        async with store.transaction() as tx:
            point = await _store_endpoint(store, tx)
            notification = _make_fanned_out()
            await store.notifications.add_many(tx, [notification])
            other = new_id(NOW)
            planned = PlannedDelivery(
                new_id(NOW), notification.id, "ana", "hook", other, new_id(NOW), Lane.HIGH, NOW, "rule"
            )
            await store.deliveries.add(tx, [planned], [], NOW)
            found = await store.contact_health.list_missed(tx, point, NOW, limit=9, now=NOW)
            assert found.notification_ids == (notification.id,), "each endpoint receives each message"
            own = structs.replace(point, id=other)
            assert (await store.contact_health.list_missed(tx, own, NOW, limit=9, now=NOW)).count == 0


def _make_fanned_out() -> Notification:
    notification = make_notification(users("ana"), state=NotificationState.FANNED_OUT)
    return replace(notification, channels=("hook",), recipients=1, skipped=1)
