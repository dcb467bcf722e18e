"""Notifications: accepted content, and the progress of fan-out."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Integer, Row, Text, and_, case, column, delete, func, insert, null, or_, select, text, update

from tidings.model.audience import from_json, to_json
from tidings.model.digest import LEFT_OUT_ON, DigestItemState
from tidings.model.notification import DigestPart, Notification, NotificationCounts, NotificationState, StopReason
from tidings.model.plan_options import PlanOptions
from tidings.model.priority import Priority
from tidings.model.status_event import build_accepted_event
from tidings.ports.store import Transaction
from tidings.stores.engine.stalled_sessions import LOCK_WAIT, terminate_stalled_holders
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.delivery_claims import CANCELLATION_LOCK_ID
from tidings.stores.repositories.status_events import SqlStatusEvents
from tidings.stores.repositories.steps import count_waiting
from tidings.stores.schema.digest_tables import digest_items, digests
from tidings.stores.schema.step_tables import awaited_events
from tidings.stores.schema.tables import WHERE_UNPLANNED, deliveries, notifications, preferences, skips
from tidings.stores.sql.ids import Id
from tidings.stores.sql.json_params import encode_rows, id_array, rowset, text_array

_n, _i, _p = notifications.c, digest_items.c, preferences.c
_OPEN_STATES = (NotificationState.ACCEPTED, NotificationState.FANNING_OUT)
_INSERT = insert(notifications)

_transitions = rowset(
    "rows",
    _n.id,
    column("old_state", Text),
    column("old_cursor", Text),
    column("old_superseded_by", Id),
    column("new_state", Text),
    column("new_cursor", Text),
    column("more_recipients", Integer),
    column("more_deliveries", Integer),
    column("more_skipped", Integer),
    column("more_collected", Integer),
)
_COMPARE_AND_SET_PROGRESS = (
    update(notifications)
    .where(
        _n.id == _transitions.c.id,
        _n.state == _transitions.c.old_state,
        _n.cursor.is_not_distinct_from(_transitions.c.old_cursor),
        # a page that was planned before a newer notification was accepted must be planned again, as skips
        _n.superseded_by.is_not_distinct_from(_transitions.c.old_superseded_by),
    )
    .values(
        state=_transitions.c.new_state,
        cursor=_transitions.c.new_cursor,
        # added, because later steps of the recipients planned so far count as well
        recipients=_n.recipients + _transitions.c.more_recipients,
        deliveries=_n.deliveries + _transitions.c.more_deliveries,
        skipped=_n.skipped + _transitions.c.more_skipped,
        collected=_n.collected + _transitions.c.more_collected,
    )
    .returning(_n.id)
)
_more = rowset("rows", _n.id, column("more_deliveries", Integer), column("more_skipped", Integer))
_ADD_COUNTS = (
    update(notifications)
    .where(_n.id == _more.c.id)
    .values(deliveries=_n.deliveries + _more.c.more_deliveries, skipped=_n.skipped + _more.c.more_skipped)
)


class SqlNotifications:
    """Implements `ports.store.Notifications`."""

    def __init__(self, status_events: SqlStatusEvents) -> None:
        self._status_events = status_events

    async def add_many(self, tx: Transaction, notifications: Sequence[Notification]) -> None:
        if notifications:
            await connection_of(tx).execute(_INSERT, [_to_row(notification) for notification in notifications])
        if notifications and self._status_events.is_enabled:
            now = notifications[0].created_at
            await self._status_events.add(tx, [build_accepted_event(one, now) for one in notifications], now)

    async def get(self, tx: Transaction, notification_id: str) -> Notification | None:
        found = await self.get_many(tx, [notification_id])
        return found[0] if found else None

    async def get_many(self, tx: Transaction, notification_ids: Collection[str]) -> Sequence[Notification]:
        query = select(notifications).where(_n.id.in_(id_array(notification_ids)))
        found = [_from_row(row) for row in await connection_of(tx).execute(query)]
        if not (digest_ids := [one.digest_id for one in found if one.digest_id is not None]):
            return found
        parts = await _load_parts(tx, digest_ids)
        return [one if one.digest_id is None else replace(one, parts=parts.get(one.digest_id, ())) for one in found]

    async def list_page(
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
            # a literal: the planner cannot match a parameter with the condition of a partial index
            query = query.where(text(f"state = '{state.value}'"), *([WHERE_UNPLANNED] if state in _OPEN_STATES else []))
        if category is not None:
            query = query.where(_n.category == category)
        if template is not None:
            query = query.where(_n.template_code == template)
        if user_id is not None:
            delivered = select(deliveries.c.notification_id).where(deliveries.c.user_id == user_id)
            skipped = select(skips.c.notification_id).where(skips.c.user_id == user_id)
            collected = (
                select(digest_items.c.notification_id)
                .join(digests, digests.c.id == digest_items.c.digest_id)
                .where(digests.c.user_id == user_id)
            )
            query = query.where(_n.id.in_(delivered.union(skipped, collected)))
        return [_from_row(row) for row in await connection_of(tx).execute(query)]

    async def compare_and_set_progress_many(
        self, tx: Transaction, transitions: Sequence[tuple[Notification, Notification]]
    ) -> set[str]:
        if not transitions:
            return set()
        # ordered, so that concurrent updates of the same notifications cannot deadlock
        rows = sorted(_transition_row(before, after) for before, after in transitions)
        return set(
            (await connection_of(tx).execute(_COMPARE_AND_SET_PROGRESS, {"rows": encode_rows(rows)})).scalars().all()
        )

    async def add_counts(self, tx: Transaction, counts: Mapping[str, tuple[int, int]]) -> None:
        # ordered as in `compare_and_set_progress_many`
        rows = sorted((notification_id, *more) for notification_id, more in counts.items())
        if rows:
            await connection_of(tx).execute(_ADD_COUNTS, {"rows": encode_rows(rows)})

    async def cancel(self, tx: Transaction, notification_id: str) -> bool:
        if connection_of(tx).dialect.name == "postgresql":
            # a claim of a suspended process would keep this lock until a time-out
            await terminate_stalled_holders(connection_of(tx), CANCELLATION_LOCK_ID, seconds=LOCK_WAIT)
            # Waits until each claim that may have read "not cancelled" is committed and thus visible as being sent.
            # Blocks new claims until the end of this transaction; they then read "cancelled".
            await connection_of(tx).execute(select(func.pg_advisory_xact_lock(CANCELLATION_LOCK_ID)))
        cancelled = NotificationState.CANCELLED.value
        updated = await connection_of(tx).execute(
            update(notifications)
            .where(_n.id == notification_id, _n.state != cancelled)
            .values(state=cancelled, cursor=None)
        )
        await connection_of(tx).execute(
            delete(awaited_events).where(awaited_events.c.notification_id == notification_id)
        )
        return updated.rowcount == 1

    async def find_stopped(self, tx: Transaction, notification_ids: Collection[str]) -> Mapping[str, StopReason]:
        query = select(_n.id, _n.state == NotificationState.CANCELLED.value, _n.superseded_by).where(
            _n.id.in_(id_array(notification_ids)),
            or_(_n.state == NotificationState.CANCELLED.value, _n.superseded_by.is_not(None)),
        )
        return {
            notification_id: StopReason(None if is_cancelled else superseded_by)
            for notification_id, is_cancelled, superseded_by in await connection_of(tx).execute(query)
        }

    async def get_counts(self, tx: Transaction, notification_id: str) -> NotificationCounts:
        totals = (
            await connection_of(tx).execute(
                select(
                    _n.recipients,
                    _n.deliveries,
                    _n.skipped,
                    _n.collected,
                    # those of others do not start any more
                    and_(
                        _n.plan.is_not(None),
                        _n.state != NotificationState.CANCELLED.value,
                        _n.superseded_by.is_(None),
                    ).label("may_wait"),
                ).where(_n.id == notification_id)
            )
        ).one()
        waiting = await count_waiting(tx, notification_id) if totals.may_wait else 0
        collecting = 0
        if totals.collected:
            is_open = (_i.notification_id == notification_id, _i.state == DigestItemState.COLLECTED.value)
            collecting = await connection_of(tx).scalar(select(func.count()).where(*is_open)) or 0
        states = await connection_of(tx).execute(
            select(deliveries.c.state, func.count())
            .where(deliveries.c.notification_id == notification_id)
            .group_by(deliveries.c.state)
        )
        return NotificationCounts(
            totals.recipients,
            totals.deliveries,
            totals.skipped,
            totals.collected,
            collecting,
            by_state={row[0]: row[1] for row in states},
            waiting_steps=waiting,
        )

    async def list_open(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[Notification]:
        query = select(notifications).where(WHERE_UNPLANNED).order_by(_n.id).limit(limit)
        if after is not None:
            query = query.where(_n.id > after)
        return [_from_row(row) for row in await connection_of(tx).execute(query)]


async def _load_parts(tx: Transaction, digest_ids: Collection[str]) -> Mapping[str, Sequence[DigestPart]]:
    """Return digest id → the notifications in it, in its order.

    Their variables, which may be large, are read for users with a condition: consent of no other depends on them.
    """
    of_digests = select(digests.c.user_id).where(digests.c.id.in_(id_array(digest_ids)))
    has_condition = select(_p.user_id).where(_p.user_id.in_(of_digests), _p.condition.is_not(None)).distinct()
    user_ids = (await connection_of(tx).execute(has_condition)).scalars().all()
    variables = case((_i.user_id.in_(text_array(user_ids)), _n.variables)) if user_ids else null()
    query = (
        select(_i.digest_id, _i.notification_id, _n.subject, variables.label("variables"), _i.detail)
        .join_from(digest_items, notifications, _n.id == _i.notification_id)
        .where(_i.digest_id.in_(id_array(digest_ids)), _i.state == DigestItemState.DIGESTED.value)
        .order_by(_i.digest_id, _i.accepted_at, _i.notification_id)
    )
    parts: defaultdict[str, list[DigestPart]] = defaultdict(list)
    for digest_id, notification_id, subject, values, detail in await connection_of(tx).execute(query):
        left_out_on = tuple((detail or {}).get(LEFT_OUT_ON, ()))
        parts[digest_id].append(DigestPart(notification_id, subject, values or {}, left_out_on))
    return parts


def _transition_row(before: Notification, after: Notification) -> tuple[str | int | None, ...]:
    """Return a row of `_COMPARE_AND_SET_PROGRESS`."""
    return (
        before.id,
        before.state.value,
        before.cursor,
        before.superseded_by,
        after.state.value,
        after.cursor,
        after.recipients - before.recipients,
        after.deliveries - before.deliveries,
        after.skipped - before.skipped,
        after.collected - before.collected,
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
        "subject": notification.subject,
        "subject_version": notification.subject_version,
        "subject_state": _json_or_none(notification.subject_state),
        "subject_previous_state": _json_or_none(notification.subject_previous_state),
        "superseded_by": notification.superseded_by,
        "plan": _json_or_none(notification.plan.to_json()),
        "send_at": notification.send_at,
        "expires_at": notification.expires_at,
        "created_at": notification.created_at,
        "state": notification.state.value,
        "cursor": notification.cursor,
        "recipients": notification.recipients,
        "deliveries": notification.deliveries,
        "skipped": notification.skipped,
        "collected": notification.collected,
        "digest_id": notification.digest_id,
    }


def _json_or_none(value: Mapping[str, object] | None) -> object:
    # None would be stored as the JSON value `null`
    return null() if value is None else dict(value)


def _from_row(row: Row[*tuple[Any, ...]]) -> Notification:
    fields = {name: value for name, value in row._mapping.items() if name != "superseded_unsent"}
    return replace(
        Notification(**fields),
        audience=from_json(row.audience),
        priority=Priority(row.priority),
        channels=tuple(row.channels),
        plan=PlanOptions.from_json(row.plan),
        state=NotificationState(row.state),
    )
