"""Personal data: the stored data of one user for an export, and the erasure of a user from audiences."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, TextClause, delete, select, update

from tidings.model.audience import (
    Audience,
    from_json,
    targets_only,
    to_json,
    without_empty_exclusions,
    without_user,
)
from tidings.model.notification import Notification
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.model.user import caller_of
from tidings.ports.personal_data import KeyedCall, LimitCounter
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.delivery_history import SELECT_TRACES, load_deliveries, load_skips
from tidings.stores.repositories.notifications import SqlNotifications
from tidings.stores.schema.digest_tables import digest_items, digests
from tidings.stores.schema.recurring_tables import recurring_notifications
from tidings.stores.schema.tables import (
    WHERE_UNPLANNED,
    audiences,
    deliveries,
    idempotency_keys,
    notifications,
    skips,
    user_limits,
)

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_n = notifications.c


class _StoredAudiences(NamedTuple):
    """Columns of a table with an audience under a name."""

    name: Column[str]
    audience: Column[Any]


_SAVED = _StoredAudiences(audiences.c.name, audiences.c.definition)
_RECURRING = _StoredAudiences(recurring_notifications.c.name, recurring_notifications.c.audience)


class SqlPersonalData:
    """Implements `ports.personal_data.PersonalData`."""

    def __init__(self, notifications: SqlNotifications) -> None:
        self._notifications = notifications

    async def list_limits(self, tx: Transaction, user_id: str) -> Sequence[LimitCounter]:
        query = (
            select(user_limits.c.scope, user_limits.c.stamps)
            .where(user_limits.c.user_id == user_id)
            .order_by(user_limits.c.scope)
        )
        return [
            LimitCounter(row.scope, [_UNIX_EPOCH + timedelta(milliseconds=stamp) for stamp in row.stamps])
            for row in await connection_of(tx).execute(query)
        ]

    async def list_idempotent_calls(self, tx: Transaction, user_id: str) -> Sequence[KeyedCall]:
        keys = idempotency_keys.c
        query = select(keys.key, keys.created_at).where(keys.caller == caller_of(user_id)).order_by(keys.key)
        return [KeyedCall(row.key, row.created_at) for row in await connection_of(tx).execute(query)]

    async def list_unplanned(self, tx: Transaction, user_id: str) -> Sequence[Notification]:
        ids = [notification_id for notification_id, _ in await _audiences_naming(tx, user_id, WHERE_UNPLANNED)]
        return sorted(await self._notifications.get_many(tx, ids), key=lambda notification: notification.id)

    async def list_saved_audiences(self, tx: Transaction, user_id: str) -> Sequence[str]:
        return await _list_naming(tx, user_id, _SAVED)

    async def list_recurring(self, tx: Transaction, user_id: str) -> Sequence[str]:
        return await _list_naming(tx, user_id, _RECURRING)

    async def list_deliveries(
        self, tx: Transaction, user_id: str, *, after: str | None, limit: int
    ) -> Sequence[DeliveryTrace]:
        query = SELECT_TRACES.where(deliveries.c.user_id == user_id).order_by(deliveries.c.id).limit(limit)
        return await load_deliveries(tx, query if after is None else query.where(deliveries.c.id > after))

    async def list_skips(self, tx: Transaction, user_id: str, *, after: str | None, limit: int) -> Sequence[SkipTrace]:
        query = select(skips).where(skips.c.user_id == user_id).order_by(skips.c.id).limit(limit)
        return await load_skips(tx, query if after is None else query.where(skips.c.id > after))


async def remove_from_audiences(tx: Transaction, user_id: str) -> None:
    """Delete notifications to this user alone, and remove the user's id from other audiences, stored ones included.

    Call it before the user's deliveries and skips are deleted: they determine which notifications are searched.
    """
    reached = (
        select(deliveries.c.notification_id)
        .where(deliveries.c.user_id == user_id)
        .union(
            select(skips.c.notification_id).where(skips.c.user_id == user_id),
            select(digest_items.c.notification_id)
            .join(digests, digests.c.id == digest_items.c.digest_id)
            .where(digests.c.user_id == user_id),
            select(_n.id).where(WHERE_UNPLANNED),
        )
    )
    for stored in (_SAVED, _RECURRING):
        await _remove_from_stored(tx, user_id, stored)
    # in the order of ids, so that two erasures cannot deadlock
    for notification_id, _ in sorted(await _audiences_naming(tx, user_id, _n.id.in_(reached)), key=itemgetter(0)):
        # read again under a lock: another erasure may have removed its user from the same audience meanwhile
        locked = select(_n.audience).where(_n.id == notification_id).with_for_update()
        stored = await connection_of(tx).scalar(locked)
        if stored is None:
            continue
        audience = from_json(stored)
        if targets_only(audience, user_id):
            await connection_of(tx).execute(delete(notifications).where(_n.id == notification_id))
        else:
            others = to_json(without_user(audience, user_id))
            changed = update(notifications).where(_n.id == notification_id).values(audience=others)
            await connection_of(tx).execute(changed)


async def _remove_from_stored(tx: Transaction, user_id: str, stored: _StoredAudiences) -> None:
    for name in await _list_naming(tx, user_id, stored):
        # read again under a lock, as below
        is_named = stored.name == name
        locked = select(stored.audience).where(is_named).with_for_update()
        found = await connection_of(tx).scalar(locked)
        if found is not None:
            rest = to_json(without_empty_exclusions(without_user(from_json(found), user_id)))
            changed = update(stored.audience.table).where(is_named).values({stored.audience: rest})
            await connection_of(tx).execute(changed)


async def _list_naming(tx: Transaction, user_id: str, stored: _StoredAudiences) -> Sequence[str]:
    """Return the names under which an audience names the user's id, in order. They are few, and all are read."""
    rows = await connection_of(tx).execute(select(stored.name, stored.audience))
    found = [(name, from_json(audience)) for name, audience in rows]
    return sorted(name for name, audience in found if without_user(audience, user_id) != audience)


async def _audiences_naming(
    tx: Transaction, user_id: str, where: ColumnElement[bool] | TextClause
) -> Sequence[tuple[str, Audience]]:
    """Return id and audience of the notifications that name the user's id, among those that match `where`."""
    rows = await connection_of(tx).execute(select(_n.id, _n.audience).where(where))
    audiences = [(row.id, from_json(row.audience)) for row in rows]
    return [(key, audience) for key, audience in audiences if without_user(audience, user_id) != audience]
