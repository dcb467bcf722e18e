"""Orders accepted notifications by their subjects, and supersedes the older ones on the same subject."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
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
    stored = {key: version for key, (version, _) in (await store.subjects.find_newest(tx, keys)).items()}
    versioned = _assign_versions(accepted, stored)
    marks: dict[str, str] = {}
    superseded: dict[str, str] = {}
    replacing: set[str] = set()
    for key, requested in sorted(_group_by_subject(versioned, includes_below, spans).items()):
        newer = _supersede_each_other(requested)
        newest = stored.get(key, 0)
        for one in requested:
            after = one.version + one.span
            if after < newest and one.notification_id not in newer:
                found = await store.subjects.find_newer(tx, key, version=after, user_ids=one.user_ids)
                newer |= {} if found is None else {one.notification_id: found}
        # what arrives late says nothing of the subjects below
        current = [one if one.version >= newest else replace(one, includes_below=False) for one in requested]
        older = await store.subjects.supersede(tx, current)
        superseded |= {notification_id: one.superseded_by for notification_id, one in older.items()}
        replacing.update(one.superseded_by for one in older.values() if one.was_unsent)
        marks |= newer
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


def _group_by_subject(
    versioned: Sequence[Notification], includes_below: Collection[str], spans: Mapping[str, int]
) -> dict[str, list[Supersession]]:
    """Return subject → what its notifications supersede, newest first."""
    by_key: defaultdict[str, list[Supersession]] = defaultdict(list)
    for one in reversed(versioned):
        if one.subject is not None and one.subject_version is not None:
            listed = explicit_users_or_none(one.audience)
            user_ids = None if listed is None else frozenset(listed)
            by_key[one.subject].append(
                Supersession(
                    one.subject,
                    one.subject_version,
                    one.id,
                    user_ids,
                    includes_below=one.id in includes_below,
                    span=spans.get(one.id, 0),
                )
            )
    return {key: sorted(group, key=lambda one: one.version, reverse=True) for key, group in by_key.items()}


def _supersede_each_other(requested: Sequence[Supersession]) -> dict[str, str]:
    """Return id → id of the newest one that supersedes it. requested: on one subject, newest first."""
    newer: dict[str, str] = {}
    for position, one in enumerate(requested):
        for other in requested[:position]:
            if other.version > one.version + max(one.span, other.span) and other.has_users(one.user_ids):
                newer[one.notification_id] = other.notification_id
                break
    return newer
