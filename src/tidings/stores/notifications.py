"""Notifications: what was accepted, how far its fan-out has come."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from tidings.model.audience import from_json, to_json
from tidings.model.notification import Counts, Notification, NotificationState
from tidings.model.priority import Priority
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.json_list import json_list
from tidings.stores.schema import UNPLANNED, deliveries, notifications, skips

_n = notifications.c


class SqlNotifications:
    """Implements `ports.store.Notifications`."""

    async def add(self, tx: Transaction, notification: Notification) -> None:
        await of(tx).execute(insert(notifications), _to_row(notification))

    async def get(self, tx: Transaction, notification_id: str) -> Notification | None:
        row = (await of(tx).execute(select(notifications).where(_n.id == notification_id))).one_or_none()
        return None if row is None else _from_row(row)

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
            query = query.where(_n.state == state.value)
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

    async def cancel(self, tx: Transaction, notification_id: str) -> bool:
        cancelled = NotificationState.CANCELLED.value
        done = await of(tx).execute(
            update(notifications)
            .where(_n.id == notification_id, _n.state != cancelled)
            .values(state=cancelled, cursor=None)
        )
        return done.rowcount == 1

    async def cancelled(self, tx: Transaction, notification_ids: Collection[str]) -> set[str]:
        query = select(_n.id).where(
            _n.id.in_(json_list(notification_ids)), _n.state == NotificationState.CANCELLED.value
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
