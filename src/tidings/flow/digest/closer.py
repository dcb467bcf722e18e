"""Closes digests that are due: checks each item again and accepts one notification, all in one transaction.

The transaction closes the digests, stores what became of their items and accepts the notifications, so a process that
is killed at any point leaves either everything or nothing. Several processes may close at once: each takes digests that
no other holds.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from cachetools import LRUCache
from msgspec import structs

from tidings.errors import ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.flow.digest.composer import (
    MAX_SHOWN_ITEMS,
    RenderedItem,
    build_digest_notification,
    find_step_source,
    render_item,
)
from tidings.flow.digest.item_check import ItemContext, check_item
from tidings.flow.plan.candidate import PlanContext
from tidings.model.audience import explicit_users_or_none
from tidings.model.awaited_event import NO_EVENTS, OccurredEvents
from tidings.model.decision import Skip
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.digest import ClosedDigest, Digest, DigestItem, DigestItemState, DueDigests
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.plan_options import list_events
from tidings.model.template import RenderedMessage
from tidings.ports.clock import Clock
from tidings.ports.renderer import Renderer
from tidings.ports.steps import Pair
from tidings.ports.store import Store, Transaction

#: digests closed in one transaction
DIGESTS_PER_TRANSACTION = 200
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
        facts = await self._load_facts(tx, due)
        closed: list[ClosedDigest] = []
        notifications: list[Notification] = []
        recipients: dict[str, Recipient] = {}
        of_items = await self._take_occurred(tx, facts)
        happened: dict[Pair, OccurredEvents] = {}
        for digest in due.digests:
            of_digest = facts[digest.id]
            outcome, kept, shown = self._decide(digest, of_digest, now)
            closed.append(outcome)
            if outcome.notification_id is None or (recipient := of_digest[0].recipient) is None:
                continue
            user_id = digest.key.user_id
            of_user = {one.id: of_items[one.id, user_id] for one in kept if (one.id, user_id) in of_items}
            source = find_step_source(kept, of_user)
            notification = build_digest_notification(
                digest,
                shown,
                kept,
                self._catalog,
                steps=source.plan.steps,
                notification_id=outcome.notification_id,
                now=now,
            )
            notifications.append(notification)
            recipients[notification.id] = recipient
            happened[notification.id, user_id] = of_user.get(source.id, NO_EVENTS)
        await self._accept(tx, notifications, recipients, now, happened)
        await self._store.digests.close(tx, closed, now)
        return closed

    def _decide(
        self, digest: Digest, of_digest: Sequence[ItemContext], now: datetime
    ) -> tuple[ClosedDigest, Sequence[Notification], Sequence[RenderedItem]]:
        """Return what becomes of a digest and its items, those that are left, and the first of them with texts."""
        shown: list[RenderedItem] = []
        kept: list[Notification] = []
        items: list[DigestItem] = []
        for facts in of_digest:
            skip, notification = self._check(facts, now), facts.notification
            if skip is None and notification is not None and facts.recipient is not None:
                if len(kept) < MAX_SHOWN_ITEMS:
                    try:
                        shown.append(RenderedItem(notification, self._render(notification, facts.recipient)))
                    except ValidationFailed as error:
                        skip = Skip(SkipReason.RENDER_FAILED, {"error": error.message})
                if skip is None:
                    kept.append(notification)
            items.append(_settle(facts.item, skip))
        current = self._catalog.templates.get(digest.key.template_code)
        # without its template, no item could be rendered, so that nothing is kept
        version = None if current is None else current.version
        return ClosedDigest(digest.id, new_id(now) if kept else None, version, items), kept, shown

    async def _take_occurred(
        self, tx: Transaction, facts: Mapping[str, Sequence[ItemContext]]
    ) -> Mapping[Pair, OccurredEvents]:
        """Return the domain events that came for items while digests collected them, and store them no longer."""
        pairs = [
            (one.notification.id, one.item.user_id)
            for of_digest in facts.values()
            for one in of_digest
            if one.notification is not None and list_events(one.notification.plan.steps)
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

    def _check(self, facts: ItemContext, now: datetime) -> Skip | None:
        if facts.notification is None:
            return Skip(SkipReason.EXPIRED)
        context = PlanContext(
            facts.notification,
            self._catalog.get_category(facts.notification.category),
            self._catalog.channels,
            now,
            get_traits=self._catalog.get_traits,
            preference_defaults=self._catalog.preference_defaults,
            pack_rules=self._catalog.rules,
        )
        return check_item(facts, context)

    async def _load_facts(self, tx: Transaction, due: DueDigests) -> Mapping[str, Sequence[ItemContext]]:
        """Return digest id → what is known of each of its items now, in their order."""
        items = [item for digest in due.digests for item in due.items[digest.id]]
        notifications = {
            one.id: one
            for one in await self._store.notifications.get_many(tx, {item.notification_id for item in items})
        }
        requests = [
            _build_request(item, digest, notifications) for digest in due.digests for item in due.items[digest.id]
        ]
        recipients = dict(zip(requests, await self._store.audiences.load_recipients(tx, requests), strict=True))
        former = await self._find_former_members(tx, items, notifications)
        return {
            digest.id: [
                ItemContext(
                    item,
                    notifications.get(item.notification_id),
                    recipients[_build_request(item, digest, notifications)],
                    self._catalog.channels,
                    is_in_audience=item.user_id not in former.get(item.notification_id, ()),
                )
                for item in due.items[digest.id]
            ]
            for digest in due.digests
        }

    async def _find_former_members(
        self, tx: Transaction, items: Sequence[DigestItem], notifications: Mapping[str, Notification]
    ) -> Mapping[str, set[str]]:
        """Return notification id → users who have left its audience since it was collected."""
        to_check: defaultdict[str, set[str]] = defaultdict(set)
        for item in items:
            notification = notifications.get(item.notification_id)
            if notification is not None and explicit_users_or_none(notification.audience) is None:
                to_check[notification.id].add(item.user_id)
        former: dict[str, set[str]] = {}
        for key, user_ids in to_check.items():
            former[key] = user_ids
            audience = notifications[key].audience
            # an audience whose pack is no longer installed has no members
            if self._catalog.has_audience(audience):
                former[key] = user_ids - await self._store.audiences.filter_members(tx, audience, user_ids)
        return former


def _build_request(
    item: DigestItem, digest: Digest, notifications: Mapping[str, Notification]
) -> tuple[str, str, str | None]:
    """Return whose preferences for what an item needs: its user may have muted what it is about."""
    notification = notifications.get(item.notification_id)
    subject = None if notification is None else notification.subject
    return digest.key.user_id, digest.category, subject


def _settle(item: DigestItem, skip: Skip | None) -> DigestItem:
    if skip is None:
        return structs.replace(item, state=DigestItemState.DIGESTED)
    return structs.replace(item, state=DigestItemState.LEFT_OUT, reason=skip.reason, detail=skip.detail)
