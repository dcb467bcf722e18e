"""Export and erasure of all stored data of a user, those of packs and channels included.

Deliveries and skips are read in pages, each in its own transaction, so that a long export does not hold a connection
while the response is written.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tidings.channels.plugin import ChannelPlugin, HasUserData
from tidings.model.awaited_event import AwaitedEvent
from tidings.model.contact_point import ContactPoint
from tidings.model.digest import Digest, DigestItem
from tidings.model.inbox import InboxCounts, InboxItem
from tidings.model.notification import Notification
from tidings.model.preference import Preference
from tidings.model.receipt import Receipt
from tidings.model.subscription import PushSubscription
from tidings.model.suppression import Suppression
from tidings.model.topic import MAX_TOPICS_PER_USER, TopicSubscription
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.model.user import User
from tidings.model.user_schedule import UserSchedule
from tidings.model.waiting_step import WaitingStep
from tidings.ports.pack import Pack
from tidings.ports.personal_data import KeyedCall, LimitCounter
from tidings.ports.store import Store, Transaction

#: deliveries or skips per page
PAGE_SIZE = 500

TraceT = TypeVar("TraceT", DeliveryTrace, SkipTrace)
RowT = TypeVar("RowT")
KeyT = TypeVar("KeyT")


@dataclass(frozen=True, slots=True)
class Profile:
    """The stored data of a user except deliveries and skips."""

    user: User
    preferences: Sequence[Preference]
    schedule: UserSchedule
    devices: Sequence[PushSubscription]
    contact_points: Sequence[ContactPoint]
    limits: Sequence[LimitCounter]
    keyed_calls: Sequence[KeyedCall]
    #: notifications that name the user explicitly and are not planned yet
    unplanned: Sequence[Notification]
    inbox_counts: InboxCounts
    topics: Sequence[TopicSubscription]
    #: names of the saved audiences that name the user explicitly
    saved_audiences: Sequence[str]
    #: names of the recurring notifications whose audience names the user explicitly
    recurring_notifications: Sequence[str]
    #: of the user's addresses, ended ones included
    suppressions: Sequence[Suppression]
    #: what providers reported of the user's addresses
    provider_events: Sequence[Receipt]
    #: name of a pack → its exported data
    packs: Mapping[str, Mapping[str, object]]
    #: name of a channel → its exported data, beside contact points
    channels: Mapping[str, Mapping[str, object]]


async def load_profile(
    store: Store, packs: Sequence[Pack], plugins: Mapping[str, ChannelPlugin], tx: Transaction, user: User
) -> Profile:
    """Return the stored data of a user except deliveries and skips."""
    return Profile(
        user=user,
        preferences=await store.users.get_preferences(tx, user.id),
        schedule=await store.user_schedules.get(tx, user.id),
        devices=await store.subscriptions.list_by_user(tx, user.id),
        contact_points=await store.contact_points.list_by_user(tx, user.id),
        limits=await store.personal_data.list_limits(tx, user.id),
        keyed_calls=await store.personal_data.list_idempotent_calls(tx, user.id),
        unplanned=await store.personal_data.list_unplanned(tx, user.id),
        inbox_counts=await store.inbox.get_counts(tx, user.id),
        topics=await store.topics.list_by_user(tx, user.id, limit=MAX_TOPICS_PER_USER),
        saved_audiences=await store.personal_data.list_saved_audiences(tx, user.id),
        recurring_notifications=await store.personal_data.list_recurring(tx, user.id),
        suppressions=await store.suppressions.list_of_user(tx, user.id),
        provider_events=await store.receipts.list_of_user(tx, user.id),
        packs={pack.name: await pack.export(tx, user.id) for pack in packs if pack.export is not None},
        channels={
            name: await plugin.export_user(tx, user.id)
            for name, plugin in plugins.items()
            if isinstance(plugin, HasUserData)
        },
    )


async def iter_deliveries(store: Store, user_id: str) -> AsyncIterator[tuple[DeliveryTrace, Notification | None]]:
    """Yield each delivery of a user with its notification, oldest first."""

    async def load_page(tx: Transaction, after: str | None) -> Sequence[DeliveryTrace]:
        return await store.personal_data.list_deliveries(tx, user_id, after=after, limit=PAGE_SIZE)

    async for pair in _with_notifications(store, load_page):
        yield pair


async def iter_skips(store: Store, user_id: str) -> AsyncIterator[tuple[SkipTrace, Notification | None]]:
    """Yield each skip of a user with its notification, oldest first."""

    async def load_page(tx: Transaction, after: str | None) -> Sequence[SkipTrace]:
        return await store.personal_data.list_skips(tx, user_id, after=after, limit=PAGE_SIZE)

    async for pair in _with_notifications(store, load_page):
        yield pair


async def iter_digests(store: Store, user_id: str) -> AsyncIterator[tuple[Digest, Sequence[DigestItem]]]:
    """Yield each digest of a user with its items, newest first."""
    before: str | None = None
    while True:
        async with store.read_snapshot() as tx:
            digests = await store.digests.list_page(tx, before=before, limit=PAGE_SIZE, user_id=user_id)
            items: dict[str, list[DigestItem]] = {digest.id: [] for digest in digests}
            for item in await store.digests.list_items(tx, items):
                items[item.digest_id].append(item)
        for digest in digests:
            yield digest, items[digest.id]
        if len(digests) < PAGE_SIZE:
            return
        before = digests[-1].id


def iter_inbox_items(store: Store, user_id: str) -> AsyncIterator[InboxItem]:
    """Yield each item of a user's feed, oldest first, those that are not shown any more included."""

    async def load_page(tx: Transaction, after: str | None) -> Sequence[InboxItem]:
        return await store.inbox.list_all(tx, user_id, after=after, limit=PAGE_SIZE)

    return _iter_rows(store, load_page, lambda item: item.id)


def iter_steps(store: Store, user_id: str) -> AsyncIterator[WaitingStep]:
    """Yield each later step of a notification for a user."""

    async def load_page(tx: Transaction, after: tuple[str, int] | None) -> Sequence[WaitingStep]:
        return await store.steps.list_by_user(tx, user_id, after=after, limit=PAGE_SIZE)

    return _iter_rows(store, load_page, lambda step: (step.notification_id, step.step))


def iter_awaited_events(store: Store, user_id: str) -> AsyncIterator[AwaitedEvent]:
    """Yield each domain event that a notification awaits for a user."""

    async def load_page(tx: Transaction, after: tuple[str, str] | None) -> Sequence[AwaitedEvent]:
        return await store.awaited_events.list_by_user(tx, user_id, after=after, limit=PAGE_SIZE)

    return _iter_rows(store, load_page, lambda one: (one.notification_id, one.event))


async def erase_user(
    store: Store, packs: Sequence[Pack], plugins: Mapping[str, ChannelPlugin], tx: Transaction, user_id: str
) -> bool:
    """Delete all stored data of a user, those of packs and channels included. Returns False if the user is unknown."""
    if not await store.users.lock_for_erasure(tx, user_id):
        return False
    for pack in packs:
        if pack.erase is not None:
            await pack.erase(tx, user_id)
    for plugin in plugins.values():
        if isinstance(plugin, HasUserData):
            await plugin.erase_user(tx, user_id)
    return await store.users.erase(tx, user_id)


async def _iter_rows(
    store: Store,
    load_page: Callable[[Transaction, KeyT | None], Awaitable[Sequence[RowT]]],
    get_key: Callable[[RowT], KeyT],
) -> AsyncIterator[RowT]:
    after: KeyT | None = None
    while True:
        async with store.read_once() as tx:
            rows = await load_page(tx, after)
        for row in rows:
            yield row
        if len(rows) < PAGE_SIZE:
            return
        after = get_key(rows[-1])


async def _with_notifications(
    store: Store, load_page: Callable[[Transaction, str | None], Awaitable[Sequence[TraceT]]]
) -> AsyncIterator[tuple[TraceT, Notification | None]]:
    after: str | None = None
    while True:
        async with store.read_snapshot() as tx:
            traces = await load_page(tx, after)
            ids = {trace.notification_id for trace in traces}
            notifications = {
                notification.id: notification for notification in await store.notifications.get_many(tx, ids)
            }
        for trace in traces:
            yield trace, notifications.get(trace.notification_id)
        if len(traces) < PAGE_SIZE:
            return
        after = traces[-1].id
