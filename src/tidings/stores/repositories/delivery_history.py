"""Delivery history: deliveries with their attempts, and skips, as shown to people."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select, text

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.receipt import Receipt
from tidings.model.trace import AttemptTrace, DeliveryTrace, SkipTrace
from tidings.ports.store import DeliveryRecipient, Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.receipts import load_of_messages
from tidings.stores.schema.tables import (
    MIN_ID,
    WHERE_FAILED,
    attempts,
    contact_points,
    deliveries,
    notifications,
    skips,
)
from tidings.stores.sql.ids import Id
from tidings.stores.sql.json_params import id_array

_d = deliveries.c
#: the condition of the index, in a query that joins other tables with a state
_IS_FAILED = text(f"deliveries.{WHERE_FAILED.text}")
#: deliveries with host and label of their targets
SELECT_TRACES = select(deliveries, contact_points.c.host, contact_points.c.label).select_from(
    deliveries.outerjoin(
        contact_points,
        # a device that another user has registered since must not be shown
        (contact_points.c.id == _d.target_id) & (contact_points.c.user_id == _d.user_id),
    )
)


class DeliveryHistory:
    """The part of `ports.store.Deliveries` that lists deliveries and skips."""

    async def list_with_attempts(
        self,
        tx: Transaction,
        notification_id: str,
        *,
        user_id: str | None,
        after: str | None,
        limit: int,
        failed_only: bool = False,
    ) -> Sequence[DeliveryTrace]:
        query = _select_deliveries(notification_id, user_id, after, limit)
        return await load_deliveries(tx, query.where(_IS_FAILED) if failed_only else query)

    async def find_recipient(self, tx: Transaction, notification_id: str, delivery_id: str) -> DeliveryRecipient | None:
        query = (
            select(_d.user_id, _d.channel, notifications.c.category)
            .join(notifications, notifications.c.id == _d.notification_id)
            .where(_d.notification_id == notification_id, _d.id == delivery_id)
        )
        row = (await connection_of(tx).execute(query)).first()
        return None if row is None else DeliveryRecipient(row.user_id, row.channel, row.category)

    async def list_skips(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[SkipTrace]:
        query = select(skips).where(skips.c.notification_id == notification_id).limit(limit)
        if user_id is None:
            query = query.order_by(skips.c.id)
        else:
            query = query.where(skips.c.user_id == user_id).order_by(_unindexed_order(skips.c.id))
        if after is not None:
            query = query.where(skips.c.id > after)
        return await load_skips(tx, query)


async def load_deliveries(
    tx: Transaction, query: Select[*tuple[Any, ...]], parameters: Mapping[str, object] | None = None
) -> Sequence[DeliveryTrace]:
    """Return the deliveries of a query built on `SELECT_TRACES`, with their attempts. parameters: of the query."""
    rows = (await connection_of(tx).execute(query, parameters)).all()
    traces: dict[str, list[AttemptTrace]] = {}
    attempts_query = (
        select(attempts)
        .where(attempts.c.delivery_id.in_(id_array([row.id for row in rows])))
        .order_by(attempts.c.delivery_id, attempts.c.started_at)
    )
    parts: dict[str, int] = {}
    for row in await connection_of(tx).execute(attempts_query):
        parts[row.delivery_id] = row.parts or 1
        traces.setdefault(row.delivery_id, []).append(
            AttemptTrace(
                row.number,
                row.outcome,
                row.why,
                row.status,
                row.started_at,
                row.finished_at,
                row.provider,
                row.message_id,
            )
        )
    events = await _load_receipts(tx, [row.id for row in rows], traces)
    return [
        DeliveryTrace(
            id=row.id,
            notification_id=row.notification_id,
            user_id=row.user_id,
            channel=row.channel,
            target_id=row.target_id,
            target_label=None if row.host is None else " at ".join(filter(None, (row.label, row.host))),
            state=DeliveryState(row.state),
            rule=row.rule,
            why=row.why,
            due_at=row.due_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
            attempts=traces.get(row.id, []),
            detail=row.detail or {},
            held_by=row.held_by,
            receipts=events.get(row.id, []),
            parts=parts.get(row.id, 1),
        )
        for row in rows
    ]


async def _load_receipts(
    tx: Transaction, delivery_ids: Sequence[str], attempts_of: Mapping[str, Sequence[AttemptTrace]]
) -> Mapping[str, Sequence[Receipt]]:
    """Return delivery id → its receipts, the oldest first. A receipt has our id of the delivery, or the provider's."""
    if not delivery_ids:
        return {}
    owners = {
        attempt.message_id: delivery_id
        for delivery_id in delivery_ids
        for attempt in attempts_of.get(delivery_id, ())
        if attempt.message_id
    }
    found: dict[str, list[Receipt]] = {}
    for receipt in await load_of_messages(tx, delivery_ids, owners):
        owner = receipt.delivery_id or owners.get(receipt.message_id or "")
        if owner is not None:
            found.setdefault(owner, []).append(receipt)
    return found


async def load_skips(tx: Transaction, query: Select[*tuple[Any, ...]]) -> Sequence[SkipTrace]:
    """Return the skips of a query that selects all columns of the table."""
    return [
        SkipTrace(
            row.id,
            row.notification_id,
            row.user_id,
            row.channel,
            SkipReason(row.reason),
            row.detail,
            row.created_at,
        )
        for row in await connection_of(tx).execute(query)
    ]


def _unindexed_order(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the column as an expression that no index can provide in order.

    The few rows of one user and notification are found by both and then sorted. For the plain column SQLite prefers an
    index that avoids the sort, and reads all rows of the notification or of the user.
    """
    return func.nullif(column, literal(MIN_ID, Id))


def _select_deliveries(
    notification_id: str, user_id: str | None, after: str | None, limit: int
) -> Select[*tuple[Any, ...]]:
    query = SELECT_TRACES.where(_d.notification_id == notification_id).limit(limit)
    query = (
        query.order_by(_d.id)
        if user_id is None
        else query.where(_d.user_id == user_id).order_by(_unindexed_order(_d.id))
    )
    if after is not None:
        query = query.where(_d.id > after)
    return query
