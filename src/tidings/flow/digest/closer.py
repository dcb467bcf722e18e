"""Closes digests that are due: checks each item again and accepts one notification, all in one transaction.

The transaction closes the digests, stores what became of their items and accepts the notifications, so a process that
is killed at any point leaves either everything or nothing. Several processes may close at once: each takes digests that
no other holds.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

from cachetools import LRUCache
from msgspec import structs

from tidings.flow.catalog import Catalog
from tidings.flow.digest.composer import (
    RemainingItem,
    RenderedItem,
    build_digest_notification,
    find_step_source,
    render_item,
)
from tidings.flow.digest.item_check import ItemChecks, ItemContext, list_item_channels
from tidings.flow.digest.item_decision import decide_item
from tidings.flow.membership import find_former_members
from tidings.flow.plan.candidate import PlanContext
from tidings.model.awaited_event import OccurredEvents
from tidings.model.decision import Skip
from tidings.model.delivery import Recipient
from tidings.model.digest import LEFT_OUT_ON, ClosedDigest, Digest, DigestItem, DigestItemState, DueDigests
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.preference import ALL_SUBJECTS, PreferenceIndex
from tidings.model.template import RenderedMessage
from tidings.ports.clock import Clock
from tidings.ports.renderer import Renderer
from tidings.ports.steps import Pair
from tidings.ports.store import Store, Transaction

#: digests closed in one transaction
DIGESTS_PER_TRANSACTION = 500
#: texts of items that are kept
MAX_RENDERED = 2_000

#: (transaction, notifications, recipient of each notification, now, domain events that came while the digests
#: collected): stores notifications and plans them
AcceptDigests: TypeAlias = Callable[
    [Transaction, Sequence[Notification], Mapping[str, Recipient], datetime, Mapping[Pair, OccurredEvents]],
    Awaitable[None],
]
#: called after a commit with how many digests became notifications, and the number of items per outcome
OnClosed: TypeAlias = Callable[[Sequence[ClosedDigest]], None]


class _Decision(NamedTuple):
    """What becomes of a digest."""

    outcome: ClosedDigest
    #: the items that are left, in their order
    kept: Sequence[RemainingItem]
    #: the first of them on each channel
    shown: Sequence[RenderedItem]
    #: its user, with the preferences for the category of the newest item that is left; None = nothing is left
    recipient: Recipient | None


class DigestCloser:
    """Closes digests. One per process."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        renderer: Renderer,
        clock: Clock,
        accept: AcceptDigests,
        *,
        bulk_lock: asyncio.Lock,
        on_closed: OnClosed = lambda _closed: None,
    ) -> None:
        """accept: accepts the notifications. bulk_lock: held for each transaction. on_closed: called after each."""
        self._store = store
        self._catalog = catalog
        self._renderer = renderer
        self._clock = clock
        self._accept = accept
        self._bulk_lock = bulk_lock
        self._on_closed = on_closed
        self._rendered: LRUCache[tuple[str, int, str, str], RenderedMessage] = LRUCache(MAX_RENDERED)

    async def close_due(self) -> int:
        """Close up to `DIGESTS_PER_TRANSACTION` due digests. Returns how many. Raises BackendError."""
        now = self._clock.now()
        async with self._store.read_once() as tx:
            if not await self._store.digests.has_due(tx, now):
                return 0
        async with self._bulk_lock, self._store.transaction() as tx:
            due = await self._store.digests.lock_due(tx, now, DIGESTS_PER_TRANSACTION)
            closed = await self._close(tx, due, now)
        self._on_closed(closed)
        return len(closed)

    async def _close(self, tx: Transaction, due: DueDigests, now: datetime) -> Sequence[ClosedDigest]:
        if not due.digests:
            return ()
        ids = {item.notification_id for digest in due.digests for item in due.items[digest.id]}
        triggers = {one.id: one for one in await self._store.notifications.get_many(tx, ids)}
        facts = await self._load_facts(tx, due, triggers)
        checks = ItemChecks({one.id: self._build_context(one, now) for one in triggers.values()})
        closed: list[ClosedDigest] = []
        notifications: list[Notification] = []
        recipients: dict[str, Recipient] = {}
        of_items = await self._take_occurred(tx, facts)
        happened: dict[Pair, OccurredEvents] = {}
        for digest in due.digests:
            made = self._decide(digest, facts[digest.id], checks, now)
            closed.append(made.outcome)
            if (notification_id := made.outcome.notification_id) is None or made.recipient is None:
                continue
            notification, events = self._build_notification(digest, made, of_items, notification_id, now)
            notifications.append(notification)
            recipients[notification.id] = made.recipient
            if events is not None:
                happened[notification.id, digest.key.user_id] = events
        await self._accept(tx, notifications, recipients, now, happened)
        await self._store.digests.close(tx, closed, now)
        return closed

    def _decide(self, digest: Digest, of_digest: Sequence[ItemContext], checks: ItemChecks, now: datetime) -> _Decision:
        """Return what becomes of a digest and its items."""
        shown: list[RenderedItem] = []
        kept: list[RemainingItem] = []
        items: list[DigestItem] = []
        of_newest: Recipient | None = None
        #: channel → items that stay there
        counts: Counter[str] = Counter()
        for facts in of_digest:
            decided = decide_item(digest, facts, checks, now, counts=counts, render=self._render)
            if isinstance(decided, Skip):
                items.append(_leave_out(facts.item, decided))
                continue
            counts.update(decided.channels)
            kept.append(RemainingItem(decided.notification, tuple(decided.left_out_on)))
            if decided.message is not None:
                shown.append(RenderedItem(decided.notification, decided.message))
            of_newest = decided.recipient
            items.append(_keep(facts.item, decided.left_out_on))
        current = self._catalog.templates.get(digest.key.template_code)
        # without its template, no item could be rendered, so that nothing is kept
        version = None if current is None else current.version
        outcome = ClosedDigest(digest.id, new_id(now) if kept else None, version, items)
        return _Decision(outcome, kept, shown, of_newest)

    def _build_notification(
        self,
        digest: Digest,
        made: _Decision,
        of_items: Mapping[Pair, OccurredEvents],
        notification_id: str,
        now: datetime,
    ) -> tuple[Notification, OccurredEvents | None]:
        """Return what a digest becomes, and the domain events that came for its steps while it collected.

        of_items: the events that came for items.
        """
        user_id = digest.key.user_id
        kept = [one.notification for one in made.kept]
        of_user = {one.id: of_items[one.id, user_id] for one in kept if (one.id, user_id) in of_items}
        source = find_step_source(kept, of_user)
        notification = build_digest_notification(
            digest,
            made.shown,
            made.kept,
            self._catalog,
            steps=source.plan.steps,
            notification_id=notification_id,
            now=now,
        )
        return notification, of_user.get(source.id)

    async def _take_occurred(
        self, tx: Transaction, facts: Mapping[str, Sequence[ItemContext]]
    ) -> Mapping[Pair, OccurredEvents]:
        """Return the domain events that came for items while digests collected them, and store them no longer."""
        pairs = [
            (one.notification.id, one.item.user_id)
            for of_digest in facts.values()
            for one in of_digest
            if one.notification is not None and one.notification.plan.events
        ]
        if not pairs:
            return {}
        happened = await self._store.awaited_events.find_occurred(tx, pairs)
        await self._store.awaited_events.remove(tx, pairs)
        return happened

    def _render(self, notification: Notification, recipient: Recipient) -> RenderedMessage:
        """Return the text of an item. Users with the same locale and zone share that of a broadcast."""
        version = self._catalog.get_template(notification.template_code).version
        key = (notification.id, version, recipient.locale, recipient.timezone)
        if (cached := self._rendered.get(key)) is None:
            cached = self._rendered[key] = render_item(notification, recipient, self._catalog, self._renderer)
        return cached

    def _build_context(self, notification: Notification, now: datetime) -> PlanContext:
        return PlanContext(
            notification,
            self._catalog.get_category(notification.category),
            self._catalog.channels,
            now,
            get_traits=self._catalog.get_traits,
            preference_defaults=self._catalog.preference_defaults,
            pack_rules=self._catalog.rules,
        )

    async def _load_facts(
        self, tx: Transaction, due: DueDigests, notifications: Mapping[str, Notification]
    ) -> Mapping[str, Sequence[ItemContext]]:
        """Return digest id → what is known of each of its items now, in their order."""
        items = [item for digest in due.digests for item in due.items[digest.id]]
        pairs = [(item.notification_id, item.user_id) for item in items]
        # the items of a digest have one category, unless a new version of their template has another one
        owners = dict.fromkeys(
            (item.user_id, notifications[item.notification_id].category)
            for item in items
            if item.notification_id in notifications
        )
        requests = [(*owner, ALL_SUBJECTS) for owner in owners]
        recipients = dict(zip(owners, await self._store.audiences.load_recipients(tx, requests), strict=True))
        indexes = {owner: PreferenceIndex(one.preferences) for owner, one in recipients.items() if one is not None}
        former = await find_former_members(self._store, self._catalog, tx, pairs, notifications)
        channels = {one.id: list_item_channels(one, self._catalog.channels) for one in notifications.values()}

        def build_context(item: DigestItem) -> ItemContext:
            notification = notifications.get(item.notification_id)
            if notification is None:
                return ItemContext(item, None, None)
            owner = (item.user_id, notification.category)
            return ItemContext(
                item,
                notification,
                recipients[owner],
                indexes[owner].select(notification.subject) if owner in indexes else (),
                channels[notification.id],
                is_in_audience=(item.notification_id, item.user_id) not in former,
            )

        return {digest.id: [build_context(item) for item in due.items[digest.id]] for digest in due.digests}


def _leave_out(item: DigestItem, skip: Skip) -> DigestItem:
    return structs.replace(item, state=DigestItemState.LEFT_OUT, reason=skip.reason, detail=skip.detail)


def _keep(item: DigestItem, left_out_on: Mapping[str, Skip]) -> DigestItem:
    inputs = {channel: {"reason": skip.reason, **skip.detail} for channel, skip in left_out_on.items()}
    return structs.replace(item, state=DigestItemState.DIGESTED, detail={LEFT_OUT_ON: inputs} if inputs else {})
