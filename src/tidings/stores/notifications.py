"""Notifications: what was accepted, how far its fan-out has come."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, Text, column, func, insert, select, text, update

from tidings.model.audience import from_json, to_json
from tidings.model.notification import Counts, Notification, NotificationState
from tidings.model.priority import Priority
from tidings.ports.store import Transaction
from tidings.stores.claims import CANCELLING
from tidings.stores.connection import of
from tidings.stores.json_list import json_ids
from tidings.stores.json_rows import encoded, json_rows
from tidings.stores.schema import UNPLANNED, deliveries, notifications, skips

_n = notifications.c
_OPEN = (NotificationState.ACCEPTED, NotificationState.FANNING_OUT)
_ADD = insert(notifications)

_moved = json_rows(
    "rows",
    _n.id,
    column("old_state", Text),
    column("old_cursor", Text),
    column("new_state", Text),
    column("new_cursor", Text),
    _n.recipients,
    _n.deliveries,
    _n.skipped,
)
_ADVANCE = (
    update(notifications)
    .where(
        _n.id == _moved.c.id,
        _n.state == _moved.c.old_state,
        _n.cursor.is_not_distinct_from(_moved.c.old_cursor),
    )
    .values(
        state=_moved.c.new_state,
        cursor=_moved.c.new_cursor,
        recipients=_moved.c.recipients,
        deliveries=_moved.c.deliveries,
        skipped=_moved.c.skipped,
    )
    .returning(_n.id)
)


class SqlNotifications:
    """Implements `ports.store.Notifications`."""

    async def add(self, tx: Transaction, notification: Notification) -> None:
        await of(tx).execute(_ADD, _to_row(notification))

    async def add_many(self, tx: Transaction, notifications: Sequence[Notification]) -> None:
        if notifications:
            await of(tx).execute(_ADD, [_to_row(one) for one in notifications])

    async def get(self, tx: Transaction, notification_id: str) -> Notification | None:
        row = (await of(tx).execute(select(notifications).where(_n.id == notification_id))).one_or_none()
        return None if row is None else _from_row(row)

    async def get_many(self, tx: Transaction, notification_ids: Collection[str]) -> Sequence[Notification]:
        query = select(notifications).where(_n.id.in_(json_ids(notification_ids)))
        return [_from_row(row) for row in await of(tx).execute(query)]

    async def recent(
        self,
        tx: Transaction,
        *,
        before: str | None,
        limit: int,
        state: NotificationState | None = None,
        category: str | None = None,
        template: str | None = None,
        user_id: str | None = None,
    ) -> Sequence[Notification]:
        query = select(notifications).order_by(_n.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_n.id < before)
        if state is not None:
            # as literal text: the rare states have partial indexes, which a parameter cannot be matched with
            query = query.where(text(f"state = '{state.value}'"), *([UNPLANNED] if state in _OPEN else []))
        if category is not None:
            query = query.where(_n.category == category)
        if template is not None:
            query = query.where(_n.template_code == template)
        if user_id is not None:
            about = select(deliveries.c.notification_id).where(deliveries.c.user_id == user_id)
            silent = select(skips.c.notification_id).where(skips.c.user_id == user_id)
            query = query.where(_n.id.in_(about.union(silent)))
        return [_from_row(row) for row in await of(tx).execute(query)]

    async def advance(self, tx: Transaction, before: Notification, after: Notification) -> bool:
        moved = await of(tx).execute(
            update(notifications)
            .where(_n.id == before.id, _n.state == before.state.value, _n.cursor.is_not_distinct_from(before.cursor))
            .values(
                state=after.state.value,
                cursor=after.cursor,
                recipients=after.recipients,
                deliveries=after.deliveries,
                skipped=after.skipped,
            )
        )
        return moved.rowcount == 1

    async def advance_many(self, tx: Transaction, moves: Sequence[tuple[Notification, Notification]]) -> set[str]:
        if not moves:
            return set()
        # in one order, so that two who move the same ones do not wait for each other in a circle
        rows = sorted(_move(before, after) for before, after in moves)
        return set((await of(tx).execute(_ADVANCE, {"rows": encoded(rows)})).scalars().all())

    async def cancel(self, tx: Transaction, notification_id: str) -> bool:
        if of(tx).dialect.name == "postgresql":
            # Waits until every claim that may have read "not cancelled" is committed, and so can be seen as being sent,
            # and holds up new ones until the end of this transaction. What is claimed after it knows.
            await of(tx).execute(select(func.pg_advisory_xact_lock(CANCELLING)))
        cancelled = NotificationState.CANCELLED.value
        done = await of(tx).execute(
            update(notifications)
            .where(_n.id == notification_id, _n.state != cancelled)
            .values(state=cancelled, cursor=None)
        )
        return done.rowcount == 1

    async def cancelled(self, tx: Transaction, notification_ids: Collection[str]) -> set[str]:
        query = select(_n.id).where(
            _n.id.in_(json_ids(notification_ids)), _n.state == NotificationState.CANCELLED.value
        )
        return set((await of(tx).scalars(query)).all())

    async def counts(self, tx: Transaction, notification_id: str) -> Counts:
        totals = (
            await of(tx).execute(select(_n.recipients, _n.deliveries, _n.skipped).where(_n.id == notification_id))
        ).one()
        states = await of(tx).execute(
            select(deliveries.c.state, func.count())
            .where(deliveries.c.notification_id == notification_id)
            .group_by(deliveries.c.state)
        )
        return Counts(totals.recipients, totals.deliveries, totals.skipped, by_state={row[0]: row[1] for row in states})

    async def unplanned(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[Notification]:
        query = select(notifications).where(UNPLANNED).order_by(_n.id).limit(limit)
        if after is not None:
            query = query.where(_n.id > after)
        return [_from_row(row) for row in await of(tx).execute(query)]


def _move(before: Notification, after: Notification) -> tuple[str | int | None, ...]:
    """Return a row of `_ADVANCE`."""
    return (
        before.id,
        before.state.value,
        before.cursor,
        after.state.value,
        after.cursor,
        after.recipients,
        after.deliveries,
        after.skipped,
    )


def _to_row(notification: Notification) -> dict[str, object]:
    return {
        "id": notification.id,
        "template_code": notification.template_code,
        "template_version": notification.template_version,
        "category": notification.category,
        "audience": to_json(notification.audience),
        "variables": dict(notification.variables),
        "priority": notification.priority.value,
        "channels": list(notification.channels),
        "action_url": notification.action_url,
        "action_text": notification.action_text,
        "source": notification.source,
        "send_at": notification.send_at,
        "expires_at": notification.expires_at,
        "created_at": notification.created_at,
        "state": notification.state.value,
        "cursor": notification.cursor,
        "recipients": notification.recipients,
        "deliveries": notification.deliveries,
        "skipped": notification.skipped,
    }


def _from_row(row: Row[*tuple[Any, ...]]) -> Notification:
    found = Notification(**row._mapping)
    return replace(
        found,
        audience=from_json(row.audience),
        priority=Priority(row.priority),
        channels=tuple(row.channels),
        state=NotificationState(row.state),
    )
