"""Factories of small valid records for the suites. Arguments default to values that do not matter to a test."""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from tidings.model.audience import Audience, everyone, users
from tidings.model.delivery import AttemptResult, ClaimedDelivery, HoldRecord, PlannedDelivery, SkipRecord
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import Outcome
from tidings.model.priority import Lane, Priority
from tidings.model.subscription import PushSubscription
from tidings.model.user import User
from tidings.ports.store import Store, Transaction
from tidings.testing import clock

T = TypeVar("T")
NOW = clock.START
LEASE = timedelta(seconds=60)
NO_KEY = "00000000-0000-7000-8000-000000000000"


def make_id_at(at: datetime) -> str:
    """Return an id with the timestamp `at`. `new_id` is monotonic and does not produce ids of an earlier time."""
    milliseconds = f"{int(at.timestamp() * 1000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-{os.urandom(6).hex()}"


async def list_reachable_devices(store: Store, tx: Transaction, *user_ids: str) -> set[tuple[str, str]]:
    """Return (user id, device id) of every device for which planning would create a delivery."""
    page = await store.audiences.page(tx, users(*user_ids), category="NEWS", after=None, limit=100)
    return {(one.user_id, target) for one in page for target in one.targets.get("webpush", ())}


async def run_concurrently(store: Store, *calls: Coroutine[object, object, T]) -> list[T]:
    """Await calls concurrently. Connections are opened first, because opening them would serialise the calls."""
    await asyncio.gather(*(store.ping() for _ in calls))
    return list(await asyncio.gather(*calls))


def make_notification(
    audience: Audience | None = None,
    *,
    state: NotificationState = NotificationState.ACCEPTED,
    category: str = "NEWS",
    template: str = "NEWS",
) -> Notification:
    """Return a notification to everyone, accepted now."""
    return Notification(
        id=new_id(NOW),
        template_code=template,
        template_version=1,
        category=category,
        audience=audience or everyone(),
        variables={"title": "Grüße", "lines": [1, {"deep": None}]},
        priority=Priority.HIGH,
        channels=("webpush",),
        action_url="/orders/1",
        action_text="Look",
        send_at=NOW,
        expires_at=NOW + timedelta(days=1),
        created_at=NOW,
        source="event:1:time_change",
        state=state,
    )


def make_subscription(user_id: str, name: str = "1", *, auth: bytes = b"a" * 16) -> PushSubscription:
    """Return a subscription; equal names give equal endpoints."""
    return PushSubscription(
        id=new_id(NOW),
        user_id=user_id,
        endpoint=f"https://push.example/send/{name}",
        p256dh=b"\x04" + name.encode().ljust(64, b"p"),
        auth=auth,
        vapid_key_id=NO_KEY,
        device="Firefox on Linux",
        created_at=NOW,
        last_seen_at=NOW,
    )


def make_planned_delivery(
    notification: Notification, user_id: str, target_id: str, *, batch_id: str, lane: Lane = Lane.HIGH
) -> PlannedDelivery:
    """Return a delivery that is due now."""
    return PlannedDelivery(
        new_id(NOW), notification.id, user_id, "webpush", target_id, batch_id, lane, NOW, "on by default"
    )


def make_attempt_result(
    delivery: ClaimedDelivery,
    outcome: Outcome | SkipRecord | HoldRecord,
    *,
    token: str | None = None,
    at: datetime = NOW,
) -> AttemptResult:
    """Return an attempt at a claimed delivery, with its own fencing token unless another is given."""
    return AttemptResult(
        delivery_id=delivery.id,
        notification_id=delivery.notification_id,
        user_id=delivery.user_id,
        channel=delivery.channel,
        target_id=delivery.target.id if delivery.target else None,
        lease_token=token or delivery.lease_token,
        number=delivery.attempts + 1,
        outcome=outcome,
        expires_at=NOW + timedelta(days=1),
        started_at=at,
        finished_at=at + timedelta(seconds=1),
        target_version=delivery.target.version if delivery.target else None,
    )


@dataclass(frozen=True, slots=True)
class PlannedNotification:
    """A notification planned for users with one device each, all in one batch."""

    notification: Notification
    devices: Sequence[PushSubscription]
    planned: Sequence[PlannedDelivery]
    batch_id: str

    async def claim(self, store: Store, *, token: str | None = None, now: datetime = NOW) -> Sequence[ClaimedDelivery]:
        """Claim the batch for a minute under a new lease."""
        async with store.transaction() as tx:
            return await store.deliveries.claim(
                tx, [self.batch_id], token=token or new_id(NOW), now=now, lease_until=now + LEASE
            )


async def create_planned_notification(
    store: Store, *user_ids: str, lane: Lane = Lane.HIGH, notification: Notification | None = None
) -> PlannedNotification:
    """Store users (default: `ana` and `ben`), their devices, a notification and its deliveries."""
    user_ids = user_ids or ("ana", "ben")
    notification, batch_id = notification or make_notification(), new_id(NOW)
    devices = [make_subscription(user_id, new_id(NOW)) for user_id in user_ids]
    planned = [
        make_planned_delivery(notification, device.user_id, device.id, batch_id=batch_id, lane=lane)
        for device in devices
    ]
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User(user_id) for user_id in user_ids], NOW)
        for device in devices:
            await store.subscriptions.register(tx, device, replaces=None, now=NOW)
        await store.notifications.add_many(tx, [notification])
        await store.deliveries.add(tx, planned, [], NOW)
    return PlannedNotification(notification, devices, planned, batch_id)


async def count_by_state(store: Store, notification: Notification) -> dict[str, int]:
    """Return how many deliveries of the notification are in each state."""
    async with store.read_snapshot() as tx:
        return dict((await store.notifications.get_counts(tx, notification.id)).by_state)


def make_claimed_delivery(notification: Notification, user_id: str = "ana", *, target: bool = True) -> ClaimedDelivery:
    """Return a delivery claimed now, of a user with default settings and, unless `target` is false, one device."""
    return ClaimedDelivery(
        id=new_id(NOW),
        notification_id=notification.id,
        user_id=user_id,
        channel="webpush",
        target=make_subscription(user_id, user_id) if target else None,
        locale="en",
        timezone="UTC",
        preferences=(),
        attempts=0,
        lease_token=new_id(NOW),
        lease_until=NOW + LEASE,
        created_at=NOW,
    )
