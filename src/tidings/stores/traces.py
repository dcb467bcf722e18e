"""What happened to a notification, read back for people: deliveries with their tries, and skips."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.trace import AttemptTrace, DeliveryTrace, SkipTrace
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.json_list import json_ids
from tidings.stores.schema import NO_ID, attempts, deliveries, push_subscriptions, skips
from tidings.stores.types import Id

_d = deliveries.c


class Traces:
    """The reading half of `ports.store.Deliveries`."""

    async def trace(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[DeliveryTrace]:
        rows = (await of(tx).execute(_page(notification_id, user_id, after, limit))).all()
        tries: dict[str, list[AttemptTrace]] = {}
        query = (
            select(attempts)
            .where(attempts.c.delivery_id.in_(json_ids([row.id for row in rows])))
            .order_by(attempts.c.delivery_id, attempts.c.started_at)
        )
        for row in await of(tx).execute(query):
            tries.setdefault(row.delivery_id, []).append(
                AttemptTrace(row.number, row.outcome, row.why, row.status, row.started_at, row.finished_at)
            )
        return [
            DeliveryTrace(
                id=row.id,
                user_id=row.user_id,
                channel=row.channel,
                target_id=row.target_id,
                target_label=None if row.host is None else " at ".join(filter(None, (row.device, row.host))),
                state=DeliveryState(row.state),
                rule=row.rule,
                why=row.why,
                due_at=row.due_at,
                created_at=row.created_at,
                updated_at=row.updated_at,
                attempts=tries.get(row.id, []),
            )
            for row in rows
        ]

    async def skips(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[SkipTrace]:
        query = select(skips).where(skips.c.notification_id == notification_id).limit(limit)
        if user_id is None:
            query = query.order_by(skips.c.id)
        else:
            query = query.where(skips.c.user_id == user_id).order_by(_sorted(skips.c.id))
        if after is not None:
            query = query.where(skips.c.id > after)
        return [
            SkipTrace(row.id, row.user_id, row.channel, SkipReason(row.reason), row.detail, row.created_at)
            for row in await of(tx).execute(query)
        ]


def _sorted(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the column in a form that no index gives in order.

    One user's few rows of a notification are to be found by both and then sorted. By the bare id SQLite prefers an
    index that spares the sorting, and reads all rows of the notification or all of the user's history.
    """
    return func.nullif(column, literal(NO_ID, Id))


def _page(notification_id: str, user_id: str | None, after: str | None, limit: int) -> Select[*tuple[Any, ...]]:
    query = (
        select(deliveries, push_subscriptions.c.host, push_subscriptions.c.device)
        .select_from(
            deliveries.outerjoin(
                push_subscriptions,
                # a browser that changed hands since is no longer this user's to see
                (push_subscriptions.c.id == _d.target_id) & (push_subscriptions.c.user_id == _d.user_id),
            )
        )
        .where(_d.notification_id == notification_id)
        .limit(limit)
    )
    query = query.order_by(_d.id) if user_id is None else query.where(_d.user_id == user_id).order_by(_sorted(_d.id))
    if after is not None:
        query = query.where(_d.id > after)
    return query
