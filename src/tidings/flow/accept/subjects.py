"""Orders accepted notifications by their subjects, and supersedes the older ones on the same subject."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from tidings.model.audience import explicit_users_or_none
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
    store: Store, tx: Transaction, accepted: Sequence[Notification], includes_below: Collection[str]
) -> SubjectOrder:
    """Give each notification its version, and supersede older ones in the same transaction.

    accepted: not stored yet. includes_below: ids of those that also supersede what is below their subject. The subject
    stays locked until the transaction ends, so that two transactions cannot accept the same version.
    """
    keys = {notification.subject for notification in accepted if notification.subject is not None}
    if not keys:
        return SubjectOrder(accepted, {})
    await store.subjects.lock(tx, keys)
    stored = {key: version for key, (version, _) in (await store.subjects.find_newest(tx, keys)).items()}
    versioned = _assign_versions(accepted, stored)
    by_key: defaultdict[str, list[Supersession]] = defaultdict(list)
    for one in reversed(versioned):
        if one.subject is not None and one.subject_version is not None:
            user_ids = explicit_users_or_none(one.audience)
            by_key[one.subject].append(
                Supersession(
                    one.subject,
                    one.subject_version,
                    one.id,
                    None if user_ids is None else frozenset(user_ids),
                    includes_below=one.id in includes_below,
                )
            )
    superseded: dict[str, str] = {}
    marks: dict[str, str] = {}
    replacing: set[str] = set()
    for key, requested in sorted(by_key.items()):
        current, older = _supersede_each_other(sorted(requested, key=lambda one: one.version, reverse=True))
        late = {
            one.notification_id: newer
            for one in current
            if one.version < stored.get(key, one.version)
            and (newer := await store.subjects.find_newer(tx, key, version=one.version, user_ids=one.user_ids))
        }
        marks |= older | late
        if current := [one for one in current if one.notification_id not in late]:
            found = await store.subjects.supersede(tx, current)
            superseded |= {notification_id: one.superseded_by for notification_id, one in found.items()}
            replacing.update(one.superseded_by for one in found.values() if one.was_unsent)
    marked = [replace(one, superseded_by=marks[one.id]) if one.id in marks else one for one in versioned]
    return SubjectOrder(marked, superseded, frozenset(replacing))


def _assign_versions(accepted: Sequence[Notification], stored: dict[str, int]) -> Sequence[Notification]:
    """Return the notifications with a version each. stored: subject → version of the newest stored notification."""
    newest = dict(stored)
    versioned = []
    for notification in accepted:
        if (key := notification.subject) is not None:
            current = newest.get(key, 0)
            version = current + 1 if notification.subject_version is None else notification.subject_version
            notification = replace(notification, subject_version=version)
            newest[key] = max(version, current) if key in newest else version
        versioned.append(notification)
    return versioned


def _supersede_each_other(requested: Sequence[Supersession]) -> tuple[list[Supersession], dict[str, str]]:
    """Return those of one subject that none of the others supersedes, and the others: id → id of the newer one.

    requested: newest first. A notification that supersedes one which includes the subjects below includes them too.
    """
    current: list[Supersession] = []
    older: dict[str, str] = {}
    for one in requested:
        covering = (i for i, newer in enumerate(current) if newer.version > one.version and newer.covers(one.user_ids))
        if (i := next(covering, None)) is None:
            current.append(one)
        else:
            older[one.notification_id] = current[i].notification_id
            current[i] = replace(current[i], includes_below=current[i].includes_below or one.includes_below)
    return current, older
