"""Dead letters: deliveries that were refused for good or quarantined, listed, counted, revived or put away (M9)."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CTE, ColumnElement, Select, TextClause, func, or_, select, text, update

from tidings.model.delivery import DeliveryState
from tidings.model.notification import NotificationState
from tidings.model.priority import Lane
from tidings.ports.operations import DeadLetter, DeadLetterFilter, ErrorGroup
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.json_list import json_ids
from tidings.stores.schema import attempts, deliveries, notifications

#: dead letters that are looked at to group them, the newest ones
GROUPED = 100_000

_d, _n = deliveries.c, notifications.c
#: the condition of the index `ix_deliveries_dead`, in its very words; notifications have a state too
_DEAD = text("deliveries.state = 'refused'")
#: Why it was given up. It never names a user or an endpoint, so that equal failures read the same and make one group.
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
_PAGE = select(
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
    """Implements `ports.operations.DeadLetters`. What two operators do at once is done to each dead letter once."""

    async def page(
        self, tx: Transaction, which: DeadLetterFilter, *, before: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        query = _PAGE.where(*_matches(which)).order_by(_d.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_d.id < before)
        return [DeadLetter(**(dict(row._mapping) | {"lane": Lane(row.lane)})) for row in await of(tx).execute(query)]

    async def by_error(self, tx: Transaction, which: DeadLetterFilter, *, limit: int) -> Sequence[ErrorGroup]:
        looked_at = (
            select(_error.label("error"), _d.updated_at)
            .select_from(_WITH_NOTIFICATION if which.template_code is not None else deliveries)
            .where(*_matches(which))
            .order_by(_d.id.desc())
            .limit(GROUPED)
            .subquery()
        )
        at = looked_at.c.updated_at
        count = func.count()
        query = (
            select(looked_at.c.error, count, func.min(at), func.max(at))
            .group_by(looked_at.c.error)
            .order_by(count.desc(), looked_at.c.error)
            .limit(limit)
        )
        return [ErrorGroup(*row) for row in await of(tx).execute(query)]

    async def count(self, tx: Transaction, *, most: int) -> int:
        some = select(_d.id).where(_DEAD).limit(most).subquery()
        return await of(tx).scalar(select(func.count()).select_from(some)) or 0

    async def replay(
        self, tx: Transaction, which: DeadLetterFilter, *, due_at: datetime, limit: int, now: datetime
    ) -> Sequence[str]:
        # what was sent when it comes due would expire at once
        alive = (_n.state != NotificationState.CANCELLED.value, _n.expires_at > max(now, due_at))
        chosen = _chosen(which, limit, *alive)
        revived = await of(tx).execute(
            update(deliveries)
            .where(*_same(chosen), _DEAD)
            .values(
                state=DeliveryState.PENDING.value,
                attempts=0,
                crashes=0,
                # it waits in the database, where the wake-up finds it; `why` stays to be read until the next outcome
                batch_id=None,
                due_at=due_at,
                lease_token=None,
                lease_until=None,
                updated_at=now,
            )
            .returning(_d.id)
        )
        return revived.scalars().all()

    async def discard(self, tx: Transaction, which: DeadLetterFilter, *, limit: int, now: datetime) -> int:
        chosen = _chosen(which, limit)
        done = await of(tx).execute(
            update(deliveries)
            .where(*_same(chosen), _DEAD)
            .values(state=DeliveryState.DISCARDED.value, updated_at=now)
            .returning(_d.id)
        )
        return len(done.all())


def _matches(which: DeadLetterFilter) -> list[ColumnElement[bool] | TextClause]:
    found: list[ColumnElement[bool] | TextClause] = [_DEAD]
    if which.ids is not None:
        found.append(_d.id.in_(json_ids(which.ids)))
    if which.error is not None:
        found.append(_says(which.error))
    if which.notification_id is not None:
        found.append(_d.notification_id == which.notification_id)
    if which.template_code is not None:
        found.append(_n.template_code == which.template_code)
    if which.channel is not None:
        found.append(_d.channel == which.channel)
    if which.user_id is not None:
        found.append(_d.user_id == which.user_id)
    if which.since is not None:
        found.append(_d.updated_at >= which.since)
    if which.until is not None:
        found.append(_d.updated_at < which.until)
    return found


def _says(error: str) -> ColumnElement[bool]:
    """Compare with a whole error, or with what it says before a colon, as in `answered 403: no entry`."""
    begin = f"{error}: "
    return or_(_error == error, func.substr(_error, 1, len(begin)) == begin)


def _chosen(which: DeadLetterFilter, limit: int, *more: ColumnElement[bool]) -> CTE:
    """Return the newest ones, without those that another operator's statement has in hand just now."""
    query: Select[tuple[str, str]] = (
        select(_d.notification_id, _d.id)
        .select_from(_WITH_NOTIFICATION)
        .where(*_matches(which), *more)
        .order_by(_d.id.desc())
        .limit(limit)
        .with_for_update(of=deliveries, skip_locked=True)
    )
    return query.cte("chosen")


def _same(chosen: CTE) -> tuple[ColumnElement[bool], ...]:
    # the notification too: by its id PostgreSQL finds the partition
    return _d.notification_id == chosen.c.notification_id, _d.id == chosen.c.id
