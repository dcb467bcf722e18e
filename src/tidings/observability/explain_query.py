"""Loads the input of `explain` from the store with a few queries."""

from datetime import datetime

from tidings.flow.catalog import Catalog
from tidings.flow.notifications import get_notification
from tidings.model.preference import ANY
from tidings.observability.audience_membership import evaluate_membership, iter_leaves
from tidings.observability.explain import ExplainInput, Explanation, explain
from tidings.observability.explain_digests import DigestHistory
from tidings.ports.store import Store, Transaction

#: maximum number of deliveries and of skips that are loaded
_MAX_ROWS = 200


async def explain_notification(
    store: Store, catalog: Catalog, *, user_id: str, notification_id: str, now: datetime
) -> Explanation:
    """Return why a user received a notification, or why not. Raises NotFound for an unknown notification."""
    async with store.read_snapshot() as tx:
        return explain(
            await load_explain_input(store, catalog, tx, user_id=user_id, notification_id=notification_id, now=now)
        )


async def load_explain_input(
    store: Store, catalog: Catalog, tx: Transaction, *, user_id: str, notification_id: str, now: datetime
) -> ExplainInput:
    """Return the input of `explain`. Raises NotFound for an unknown notification."""
    notification = await get_notification(store, tx, notification_id)
    user = await store.users.get(tx, user_id)
    preferences = await store.users.get_preferences(tx, user_id)
    is_in: dict[int, bool] = {}
    for position, leaf in enumerate(iter_leaves(notification.audience)):
        # a kind whose pack is not installed has no members
        is_installed = leaf.kind in catalog.audiences
        is_in[position] = is_installed and bool(await store.audiences.filter_members(tx, leaf, [user_id]))
    return ExplainInput(
        user_id=user_id,
        is_user_known=user is not None,
        notification=notification,
        category=catalog.categories.get(notification.category),
        preferences=[entry for entry in preferences if entry.category in (ANY, notification.category)],
        subscriptions=await store.subscriptions.list_by_user(tx, user_id),
        deliveries=await store.deliveries.list_with_attempts(
            tx, notification_id, user_id=user_id, after=None, limit=_MAX_ROWS
        ),
        skips=await store.deliveries.list_skips(tx, notification_id, user_id=user_id, after=None, limit=_MAX_ROWS),
        membership=evaluate_membership(notification.audience, is_in, catalog.audiences, user_id),
        now=now,
        channels=catalog.channels,
        preference_defaults=catalog.preference_defaults,
        steps=await store.steps.list_of(tx, notification_id, user_ids=[user_id], limit=_MAX_ROWS),
        digests=await _load_digests(store, tx, user_id=user_id, notification_id=notification_id),
        superseded_by=await store.subjects.find_newer_for_user(tx, notification_id, user_id),
    )


async def _load_digests(store: Store, tx: Transaction, *, user_id: str, notification_id: str) -> DigestHistory:
    items = await store.digests.list_of_notification(tx, notification_id, user_id=user_id, after=None, limit=1)
    origin = await store.digests.find_by_notification(tx, notification_id)
    return DigestHistory(
        collected=items[0] if items else None,
        origin=origin,
        items=await store.digests.list_items(tx, [origin.id]) if origin is not None else (),
    )
