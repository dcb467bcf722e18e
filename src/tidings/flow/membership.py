"""Who has left the audience of a notification since it was planned or collected. Each stage that acts later asks."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from tidings.flow.catalog import Catalog
from tidings.model.audience import explicit_users_or_none
from tidings.model.notification import Notification
from tidings.ports.steps import Pair
from tidings.ports.store import Store, Transaction


def has_explicit_users(notification: Notification) -> bool:
    """Return whether the audience of a notification is a list of user ids, which no user leaves."""
    return explicit_users_or_none(notification.audience) is not None


async def find_former_members(
    store: Store,
    catalog: Catalog,
    tx: Transaction,
    pairs: Collection[Pair],
    notifications: Mapping[str, Notification],
) -> Collection[Pair]:
    """Return those of (notification id, user id) whose user is not in the audience any more. One query per audience.

    An audience whose pack is no longer installed has no members. A pair is left out if `notifications` lacks its
    notification.
    """
    users: defaultdict[str, set[str]] = defaultdict(set)
    for notification_id, user_id in pairs:
        notification = notifications.get(notification_id)
        if notification is not None and not has_explicit_users(notification):
            users[notification_id].add(user_id)
    former: set[Pair] = set()
    for notification_id, user_ids in users.items():
        audience, members = notifications[notification_id].audience, set[str]()
        if catalog.has_audience(audience):
            members = await store.audiences.filter_members(tx, audience, user_ids)
        former.update((notification_id, user_id) for user_id in user_ids - members)
    return former
