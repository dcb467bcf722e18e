"""Orders accepted notifications by their subjects, and supersedes the older ones on the same subject."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tidings.model.notification import Notification
from tidings.model.subject import Supersession
from tidings.ports.store import Store, Transaction


@dataclass(frozen=True, slots=True)
class SubjectOrder:
    """Notifications with their version on their subject."""

    #: in the order given; `superseded_by` is set if a newer one exists
    notifications: Sequence[Notification]
    #: stored notifications that are superseded from now on: id → id of the newer one
    superseded: dict[str, str]
    #: ids of the notifications that superseded unsent ones
    replacing: frozenset[str] = frozenset()


async def order_by_subject(
    store: Store,
    tx: Transaction,
    accepted: Sequence[Notification],
    includes_below: Collection[str],
    spans: Mapping[str, int],
) -> SubjectOrder:
    """Give each notification its version, and supersede older ones in the same transaction.

    accepted: not stored yet. includes_below: ids of those that also supersede what is below their subject. spans:
    id → `DefaultVersion.span`. The subject stays locked until the transaction ends, so that two transactions cannot
    accept the same version.
    """
    keys = {notification.subject for notification in accepted if notification.subject is not None}
    if not keys:
        return SubjectOrder(accepted, {})
    await store.subjects.lock(tx, keys)
    newest = dict(await store.subjects.find_newest(tx, keys))
    versioned = []
    for notification in accepted:
        if (key := notification.subject) is not None:
            current, _ = newest.get(key, (0, ""))
            version = current + 1 if notification.subject_version is None else notification.subject_version
            notification = replace(notification, subject_version=version)
            if key not in newest or version >= current:
                newest[key] = (version, notification.id)
        versioned.append(notification)
    ids = {notification.id for notification in versioned}
    superseded: dict[str, str] = {}
    replacing = set()
    for key, (version, newest_id) in sorted(newest.items()):
        if newest_id in ids:
            below = any(one.id in includes_below for one in versioned if one.subject == key)
            before = version - spans.get(newest_id, 0)
            older = await store.subjects.supersede(tx, Supersession(key, before, newest_id, below))
            superseded |= dict.fromkeys(older, newest_id)
            if any(older.values()):
                replacing.add(newest_id)
    marked = [_mark_superseded(one, newest, spans.get(one.id, 0)) for one in versioned]
    return SubjectOrder(marked, superseded, frozenset(replacing))


def _mark_superseded(notification: Notification, newest: Mapping[str, tuple[int, str]], span: int) -> Notification:
    if notification.subject is None or notification.subject_version is None:
        return notification
    version, newest_id = newest[notification.subject]
    is_older = notification.subject_version < version - span
    return replace(notification, superseded_by=newest_id) if is_older else notification
