"""Small valid records for the suites. What a test does not name has a value here that it does not care about."""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from tidings.model.audience import Audience, everyone, users
from tidings.model.delivery import Attempted, Due, Planned, Skipped
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


def an_id(at: datetime) -> str:
    """An id made at an instant. `new_id` never goes back: in a test of another time it would be the latest one's."""
    milliseconds = f"{int(at.timestamp() * 1000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-{os.urandom(6).hex()}"


async def reachable(store: Store, tx: Transaction, *user_ids: str) -> set[tuple[str, str]]:
    """Return (user id, device id) of every device that planning would reach."""
    page = await store.audiences.page(tx, users(*user_ids), category="NEWS", after=None, limit=100)
    return {(one.user_id, target) for one in page for target in one.targets.get("webpush", ())}


async def at_once(store: Store, *calls: Coroutine[object, object, T]) -> list[T]:
    """Await calls together, over connections that are open already: opening them would keep the calls apart."""
    await asyncio.gather(*(store.ping() for _ in calls))
    return list(await asyncio.gather(*calls))


def a_notification(
    audience: Audience | None = None,
    *,
    state: NotificationState = NotificationState.ACCEPTED,
    category: str = "NEWS",
    template: str = "NEWS",
) -> Notification:
    """A notification to everyone, accepted now."""
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


def a_subscription(user_id: str, name: str = "1", *, auth: bytes = b"a" * 16) -> PushSubscription:
    """A browser's subscription; equal names make equal endpoints."""
    return PushSubscription(
        id=new_id(NOW),
        user_id=user_id,
        endpoint=f"https://push.example/send/{name}",
        p256dh=b"\x04" + name.encode().ljust(64, b"p"),
        auth=auth,
        vapid_key_id=NO_KEY,
        device="Firefox on Linux",
        created_at=NOW,
    )


def a_planned(
    notification: Notification, user_id: str, target_id: str, *, batch_id: str, lane: Lane = Lane.HIGH
) -> Planned:
    """A delivery that is due now."""
    return Planned(new_id(NOW), notification.id, user_id, "webpush", target_id, batch_id, lane, NOW, "on by default")


def tried(due: Due, outcome: Outcome | Skipped, *, token: str | None = None, at: datetime = NOW) -> Attempted:
    """One try at a claimed delivery, under its own lease unless a token is given."""
    return Attempted(
        delivery_id=due.id,
        notification_id=due.notification_id,
        user_id=due.user_id,
        channel=due.channel,
        target_id=due.target.id if due.target else None,
        lease_token=token or due.lease_token,
        number=due.attempts + 1,
        outcome=outcome,
        expires_at=NOW + timedelta(days=1),
        started_at=at,
        finished_at=at + timedelta(seconds=1),
    )


@dataclass(frozen=True, slots=True)
class Scene:
    """A notification planned to some users with one device each, all in one batch."""

    notification: Notification
    devices: Sequence[PushSubscription]
    planned: Sequence[Planned]
    batch_id: str

    async def claim(self, store: Store, *, token: str | None = None, now: datetime = NOW) -> Sequence[Due]:
        """Claim the batch for a minute under a new lease."""
        async with store.begin() as tx:
            return await store.deliveries.claim(
                tx, [self.batch_id], token=token or new_id(NOW), now=now, lease_until=now + LEASE
            )


async def planned_scene(store: Store, *user_ids: str, lane: Lane = Lane.HIGH) -> Scene:
    """Store users (`ana` and `ben` unless named), their devices, a notification and its deliveries."""
    user_ids = user_ids or ("ana", "ben")
    notification, batch_id = a_notification(), new_id(NOW)
    devices = [a_subscription(user_id, new_id(NOW)) for user_id in user_ids]
    planned = [a_planned(notification, device.user_id, device.id, batch_id=batch_id, lane=lane) for device in devices]
    async with store.begin() as tx:
        await store.users.upsert(tx, [User(user_id) for user_id in user_ids], NOW)
        for device in devices:
            await store.subscriptions.register(tx, device, replaces=None, now=NOW)
        await store.notifications.add(tx, notification)
        await store.deliveries.add(tx, planned, [], NOW)
    return Scene(notification, devices, planned, batch_id)


async def by_state(store: Store, notification: Notification) -> dict[str, int]:
    """Return how many deliveries of the notification are in each state."""
    async with store.read() as tx:
        return dict((await store.notifications.counts(tx, notification.id)).by_state)


def a_due(notification: Notification, user_id: str = "ana", *, target: bool = True) -> Due:
    """A delivery claimed now, of a user with defaults for everything, on one active device unless told otherwise."""
    return Due(
        id=new_id(NOW),
        notification_id=notification.id,
        user_id=user_id,
        channel="webpush",
        target=a_subscription(user_id, user_id) if target else None,
        locale="en",
        timezone="UTC",
        preference=None,
        attempts=0,
        lease_token=new_id(NOW),
        lease_until=NOW + LEASE,
        planned_at=NOW,
    )
