"""Gathers what explain needs from the store, in a handful of queries."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from tidings.errors import NotFound
from tidings.insight.explain import Explanation, Facts, explain
from tidings.insight.membership import judge, leaves
from tidings.model.template import Category
from tidings.ports.pack import AudienceKind
from tidings.ports.store import Store, Transaction

#: devices or skips of one user that are looked at
_AT_MOST = 200


class Words(Protocol):
    """What the packs declare, as far as explain needs it."""

    @property
    def categories(self) -> Mapping[str, Category]: ...
    @property
    def audiences(self) -> Mapping[str, AudienceKind]: ...


async def explain_to(store: Store, words: Words, *, user_id: str, notification_id: str, now: datetime) -> Explanation:
    """Return why a user got a notification, or why not. Raises NotFound for an unknown notification."""
    async with store.read() as tx:
        return explain(await gather(store, words, tx, user_id=user_id, notification_id=notification_id, now=now))


async def gather(
    store: Store, words: Words, tx: Transaction, *, user_id: str, notification_id: str, now: datetime
) -> Facts:
    """Return all that is known. Raises NotFound for an unknown notification."""
    notification = await store.notifications.get(tx, notification_id)
    if notification is None:
        raise NotFound(f"Notification {notification_id[:60]} does not exist.", code="unknown_notification")
    user = await store.users.get(tx, user_id)
    choices = await store.users.preferences(tx, user_id)
    is_in: dict[int, bool] = {}
    for position, leaf in enumerate(leaves(notification.audience)):
        # a kind whose pack is gone has no members any more
        known = leaf.kind in words.audiences
        is_in[position] = known and bool(await store.audiences.among(tx, leaf, [user_id]))
    return Facts(
        user_id=user_id,
        user_known=user is not None,
        notification=notification,
        category=words.categories.get(notification.category),
        choices=[one for one in choices if one.category == notification.category],
        subscriptions=await store.subscriptions.of_user(tx, user_id),
        deliveries=await store.deliveries.trace(tx, notification_id, user_id=user_id, after=None, limit=_AT_MOST),
        skips=await store.deliveries.skips(tx, notification_id, user_id=user_id, after=None, limit=_AT_MOST),
        membership=judge(notification.audience, is_in, words.audiences, user_id),
        now=now,
    )
