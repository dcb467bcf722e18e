"""Dead letters: permanently failed and quarantined deliveries, to be listed, replayed or discarded."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CTE, ColumnElement, Select, TextClause, func, or_, select, text, update

from tidings.model.delivery import DeliveryState
from tidings.model.notification import NotificationState
from tidings.model.priority import Lane
from tidings.ports.operations import DeadLetter, DeadLetterFilter, ErrorGroup
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import attempts, deliveries, notifications
from tidings.stores.sql.json_params import id_array

#: number of dead letters that are grouped by error, the newest ones
MAX_GROUPED = 100_000

_d, _n = deliveries.c, notifications.c
#: the condition of the index `ix_deliveries_dead`, with the table name because notifications have a state too
_WHERE_DEAD = text("deliveries.state = 'refused'")
#: Reason of the failure. It contains neither user nor endpoint, so equal failures form one group.
_error = func.coalesce(_d.why, "")
_last_status = (
    select(attempts.c.status)
    .where(attempts.c.delivery_id == _d.id)
    .order_by(attempts.c.started_at.desc())
    .limit(1)
    .correlate(deliveries)
    .scalar_subquery()
)
_WITH_NOTIFICATION = deliveries.join(notifications, _n.id == _d.notification_id)
_SELECT_DEAD_LETTERS = select(
    _d.id,
    _d.notification_id,
    _n.template_code,
    _n.category,
    _d.user_id,
    _d.channel,
    _d.lane,
    _error.label("error"),
    _last_status.label("status"),
    _d.attempts,
    _d.crashes,
    _d.updated_at.label("died_at"),
    _n.expires_at,
).select_from(_WITH_NOTIFICATION)


class SqlDeadLetters:
    """Implements `ports.operations.DeadLetters`. Concurrent calls change each dead letter once."""

    async def page(
        self, tx: Transaction, which: DeadLetterFilter, *, before: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        query = _SELECT_DEAD_LETTERS.where(*_filter_conditions(which)).order_by(_d.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_d.id < before)
        return [
            DeadLetter(**(dict(row._mapping) | {"lane": Lane(row.lane)}))
            for row in await connection_of(tx).execute(query)
        ]

    async def group_by_error(self, tx: Transaction, which: DeadLetterFilter, *, limit: int) -> Sequence[ErrorGroup]:
        newest = (
            select(_error.label("error"), _d.updated_at)
            .select_from(_WITH_NOTIFICATION if which.template_code is not None else deliveries)
            .where(*_filter_conditions(which))
            .order_by(_d.id.desc())
            .limit(MAX_GROUPED)
            .subquery()
        )
        died_at = newest.c.updated_at
        count = func.count()
        query = (
            select(newest.c.error, count, func.min(died_at), func.max(died_at))
            .group_by(newest.c.error)
            .order_by(count.desc(), newest.c.error)
            .limit(limit)
        )
        return [ErrorGroup(*row) for row in await connection_of(tx).execute(query)]

    async def count(self, tx: Transaction, *, limit: int) -> int:
        limited = select(_d.id).where(_WHERE_DEAD).limit(limit).subquery()
        return await connection_of(tx).scalar(select(func.count()).select_from(limited)) or 0

    async def replay(
        self, tx: Transaction, which: DeadLetterFilter, *, due_at: datetime, limit: int, now: datetime
    ) -> Sequence[str]:
        # a delivery that expires before it is due would be replayed for nothing
        sendable = (
            _n.state != NotificationState.CANCELLED.value,
            _n.superseded_by.is_(None),
            _n.expires_at > max(now, due_at),
        )
        selected = _select_for_update(which, limit, *sendable)
        replayed = await connection_of(tx).execute(
            update(deliveries)
            .where(*_same_row(selected), _WHERE_DEAD)
            .values(
                state=DeliveryState.PENDING.value,
                attempts=0,
                crashes=0,
                # without a batch, `batch_due` finds it when it is due; `why` remains visible until the next outcome
                batch_id=None,
                due_at=due_at,
                lease_token=None,
                lease_until=None,
                updated_at=now,
            )
            .returning(_d.id)
        )
        return replayed.scalars().all()

    async def discard(self, tx: Transaction, which: DeadLetterFilter, *, limit: int, now: datetime) -> int:
        selected = _select_for_update(which, limit)
        discarded = await connection_of(tx).execute(
            update(deliveries)
            .where(*_same_row(selected), _WHERE_DEAD)
            .values(state=DeliveryState.DISCARDED.value, updated_at=now)
            .returning(_d.id)
        )
        return len(discarded.all())


def _filter_conditions(which: DeadLetterFilter) -> list[ColumnElement[bool] | TextClause]:
    conditions: list[ColumnElement[bool] | TextClause] = [_WHERE_DEAD]
    if which.ids is not None:
        conditions.append(_d.id.in_(id_array(which.ids)))
    if which.error is not None:
        conditions.append(_error_condition(which.error))
    if which.notification_id is not None:
        conditions.append(_d.notification_id == which.notification_id)
    if which.template_code is not None:
        conditions.append(_n.template_code == which.template_code)
    if which.channel is not None:
        conditions.append(_d.channel == which.channel)
    if which.user_id is not None:
        conditions.append(_d.user_id == which.user_id)
    if which.since is not None:
        conditions.append(_d.updated_at >= which.since)
    if which.until is not None:
        conditions.append(_d.updated_at < which.until)
    return conditions


def _error_condition(error: str) -> ColumnElement[bool]:
    """Match the whole error or its part before a colon: `answered 403` matches `answered 403: no entry`."""
    prefix = f"{error}: "
    return or_(_error == error, func.substr(_error, 1, len(prefix)) == prefix)


def _select_for_update(which: DeadLetterFilter, limit: int, *conditions: ColumnElement[bool]) -> CTE:
    """Select the newest dead letters, without rows locked by a concurrent statement."""
    query: Select[tuple[str, str]] = (
        select(_d.notification_id, _d.id)
        .select_from(_WITH_NOTIFICATION)
        .where(*_filter_conditions(which), *conditions)
        .order_by(_d.id.desc())
        .limit(limit)
        .with_for_update(of=deliveries, skip_locked=True)
    )
    return query.cte("selected")


def _same_row(selected: CTE) -> tuple[ColumnElement[bool], ...]:
    # includes the partition key, so that PostgreSQL reads only that partition
    return _d.notification_id == selected.c.notification_id, _d.id == selected.c.id
