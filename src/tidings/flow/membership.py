"""Who has left the audience of a notification since it was planned or collected. Each stage that acts later asks."""

from collections import defaultdict
from collections.abc import Collection, Mapping

import msgspec

from tidings.flow.catalog import Catalog
from tidings.model.audience import Audience, explicit_users_or_none, to_json
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
    #: audience as JSON → pairs whose notification has it
    of_audience: defaultdict[bytes, set[Pair]] = defaultdict(set)
    audiences: dict[bytes, Audience] = {}
    keys = {
        one.id: msgspec.json.encode(to_json(one.audience))
        for one in notifications.values()
        if not has_explicit_users(one)
    }
    for pair in pairs:
        if (key := keys.get(pair[0])) is not None:
            audiences[key] = notifications[pair[0]].audience
            of_audience[key].add(pair)
    former: set[Pair] = set()
    for key, of_key in of_audience.items():
        members = set[str]()
        if catalog.has_audience(audiences[key]):
            user_ids = {user_id for _, user_id in of_key}
            members = await store.audiences.filter_members(tx, audiences[key], user_ids)
        former.update(pair for pair in of_key if pair[1] not in members)
    return former
