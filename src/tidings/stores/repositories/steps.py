"""Waiting steps: changes by the rules of `model.waiting_step`, for many notifications and users in few statements."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, column, func, insert, literal, select, tuple_, update

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.status_event import build_state_event
from tidings.model.waiting_step import (
    HANDED_OVER_STATES,
    StepCause,
    StepEnd,
    WaitingStep,
    apply_fulfilled,
    build_event_key,
    cancel_steps,
    start_clock,
)
from tidings.ports.steps import DeliveredWhenSent, Fulfilment, Pair, StepKey
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.awaited_events import SqlAwaitedEvents
from tidings.stores.repositories.notification_locks import lock_notifications
from tidings.stores.repositories.status_events import SqlStatusEvents
from tidings.stores.repositories.step_conditions import load_fulfilled
from tidings.stores.repositories.user_locks import lock_users
from tidings.stores.schema.step_tables import IS_WAITING, WHERE_DUE, WHERE_EVENT, waiting_steps
from tidings.stores.schema.tables import WHERE_PENDING, Instant, Json, deliveries, notifications
from tidings.stores.sql.json_params import encode_instant, encode_rows, id_array, rowset, text_array

_w, _d = waiting_steps.c, deliveries.c
_COLUMNS = tuple(_w)
_INSERT = insert(waiting_steps).from_select(_COLUMNS, select(rowset("rows", *_COLUMNS)))
_KEY = (_w.notification_id, _w.user_id, _w.step)
_pairs = rowset("rows", _w.notification_id, _w.user_id, alias="pairs")
_SELECT_BY_PAIRS = (
    select(waiting_steps)
    .where(_w.notification_id == _pairs.c.notification_id, _w.user_id == _pairs.c.user_id)
    .order_by(*_KEY)
)
_LOCK_BY_PAIRS = _SELECT_BY_PAIRS.with_for_update(of=waiting_steps)
_SELECT_STATES = (
    select(_d.notification_id, _d.user_id, _d.channel, _d.state, notifications.c.category)
    .distinct()
    .join(notifications, notifications.c.id == _d.notification_id)
    .where(_d.notification_id == _pairs.c.notification_id, _d.user_id == _pairs.c.user_id)
)
_changed = rowset("rows", *_KEY, _w.due_at, _w.cause, _w.started_at, _w.ended_at, _w.ended_by, alias="changed")
_UPDATE = (
    update(waiting_steps)
    .where(
        _w.notification_id == _changed.c.notification_id,
        _w.user_id == _changed.c.user_id,
        _w.step == _changed.c.step,
    )
    .values({name: _changed.c[name] for name in ("due_at", "cause", "started_at", "ended_at", "ended_by")})
)
_unsent = rowset("rows", _d.notification_id, _d.user_id, _d.channel, column("new_detail", Json), alias="unsent")
_CANCEL_UNSENT = (
    update(deliveries)
    .where(
        _d.notification_id == _unsent.c.notification_id,
        _d.user_id == _unsent.c.user_id,
        _d.channel == _unsent.c.channel,
        WHERE_PENDING,
    )
    .values(
        state=DeliveryState.SKIPPED.value,
        why=SkipReason.STEP_CANCELLED.value,
        detail=_unsent.c.new_detail,
        held_by=None,
        batch_id=None,
        updated_at=bindparam("now", type_=Instant),
    )
    .returning(_d.id, _d.notification_id, _d.user_id, _d.channel)
)
#: steps that one statement of `cancel_by_event` reads
_PAGE_SIZE = 1000

#: conditions whose fulfilment is reported without the notification, so that it is looked up
REPORTED = frozenset({"delivered", "clicked"})
#: all steps of a notification for a user → those that change
Change = Callable[[Sequence[WaitingStep]], Sequence[WaitingStep]]


class SqlSteps:
    """Implements `ports.steps.Steps`."""

    def __init__(self, status_events: SqlStatusEvents, awaited_events: SqlAwaitedEvents) -> None:
        self._status_events = status_events
        self._awaited_events = awaited_events

    async def add(self, tx: Transaction, steps: Sequence[WaitingStep]) -> None:
        if steps:
            await connection_of(tx).execute(_INSERT, {"rows": encode_rows([_to_row(step) for step in steps])})

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        query = select(_w.step).where(WHERE_DUE, _w.due_at <= now).limit(1)
        return await connection_of(tx).scalar(query) is not None

    async def lock_due(self, tx: Transaction, now: datetime, limit: int) -> Mapping[Pair, Sequence[WaitingStep]]:
        query = select(_w.notification_id, _w.user_id).where(WHERE_DUE, _w.due_at <= now).order_by(_w.due_at)
        if connection_of(tx).dialect.name == "postgresql":
            ids = {row.notification_id for row in await connection_of(tx).execute(query.limit(limit))}
            await lock_notifications(tx, ids)
            query = query.where(_w.notification_id.in_(id_array(ids)))
        locked = await connection_of(tx).execute(query.limit(limit).with_for_update(skip_locked=True))
        pairs = [(row.notification_id, row.user_id) for row in locked]
        return await _load(tx, pairs) if pairs else {}

    async def save(self, tx: Transaction, changed: Sequence[WaitingStep]) -> None:
        if changed:
            rows = encode_rows([_to_changed_row(step) for step in changed])
            await connection_of(tx).execute(_UPDATE, {"rows": rows})

    async def lock(self, tx: Transaction, pairs: Collection[Pair]) -> None:
        """Lock the steps of pairs."""
        await _load(tx, pairs, lock=True)

    async def record_outcomes(
        self, tx: Transaction, pairs: Collection[Pair], now: datetime, *, is_delivered_when_sent: DeliveredWhenSent
    ) -> None:
        loaded = await _load(tx, pairs, lock=True)
        open_pairs = [pair for pair, steps in loaded.items() if any(step.is_waiting for step in steps)]
        if not open_pairs:
            return
        states: dict[Pair, dict[str, set[DeliveryState]]] = {pair: {} for pair in open_pairs}
        arrived: dict[Pair, set[str]] = {pair: set() for pair in open_pairs}
        for row in await connection_of(tx).execute(_SELECT_STATES, {"rows": encode_rows(open_pairs)}):
            pair, state = (row.notification_id, row.user_id), DeliveryState(row.state)
            states[pair].setdefault(row.channel, set()).add(state)
            if state in HANDED_OVER_STATES and is_delivered_when_sent(row.channel, row.category):
                arrived[pair].add(row.channel)
        changed: dict[tuple[str, str, int], WaitingStep] = {}
        for pair, of_channels in states.items():
            steps = loaded[pair]
            changed |= _by_key(start_clock(steps, of_channels, now))
            if delivered := arrived[pair]:
                current = [changed.get(_key(step), step) for step in steps]
                happened = [(StepEnd.DELIVERED, channel) for channel in sorted(delivered)]
                changed |= _by_key(apply_fulfilled(current, happened, now))
        await self._store(tx, list(changed.values()), now)

    async def cancel(self, tx: Transaction, pairs: Collection[Pair], end: StepEnd, now: datetime) -> int:
        return await self._change(tx, pairs, lambda steps: cancel_steps(steps, end, now), now)

    async def cancel_by_click(self, tx: Transaction, user_id: str, delivery_id: str, now: datetime) -> int:
        # by the index on users: on PostgreSQL that on ids begins with the notification
        query = select(_d.notification_id).where(_d.user_id == user_id, _d.id == delivery_id)
        notification_id = await connection_of(tx).scalar(query)
        return (
            0 if notification_id is None else await self.cancel(tx, [(notification_id, user_id)], StepEnd.CLICKED, now)
        )

    async def cancel_by_event(
        self, tx: Transaction, event: str, now: datetime, *, subject: str | None, user_id: str | None
    ) -> int:
        # first: the steps of a page that is being planned are found once it is committed
        await self._awaited_events.record(tx, event, now, subject=subject, user_id=user_id)
        keys = [] if subject is None else [build_event_key(subject, "")]
        if user_id is not None:
            keys.append(build_event_key(None, user_id))
        query = (
            select(_w.notification_id, _w.user_id)
            .where(WHERE_EVENT, _w.event == event, _w.event_key.in_(text_array(keys)), _w.ended_at.is_(None))
            .limit(_PAGE_SIZE)
        )
        count = 0
        if not keys:
            return count
        while found := {(row.notification_id, row.user_id) for row in await connection_of(tx).execute(query)}:
            # before the steps, as an erasure locks them
            await lock_users(tx, {user_id for _, user_id in found})
            count += await self._change(
                tx, found, lambda steps: cancel_steps(steps, StepEnd.EVENT, now, event=event), now
            )
        return count

    async def find_fulfilled(
        self, tx: Transaction, pairs: Collection[Pair], now: datetime
    ) -> Mapping[Pair, Sequence[Fulfilment]]:
        return await load_fulfilled(tx, pairs, now)

    async def find_ended(self, tx: Transaction, keys: Collection[StepKey], now: datetime) -> Mapping[StepKey, StepEnd]:
        loaded = await _load(tx, {key[:2] for key in keys})
        ended: dict[StepKey, StepEnd] = {}
        reported: dict[StepKey, WaitingStep] = {}
        for key in keys:
            step = next((one for one in loaded.get(key[:2], ()) if key[2] in one.channels), None)
            if step is not None and step.ended_by is not None:
                ended[key] = step.ended_by
            elif step is not None and step.unless in REPORTED:
                reported[key] = step
        if reported:
            fulfilled = await load_fulfilled(tx, {key[:2] for key in reported}, now)
            for key, step in reported.items():
                for one in apply_fulfilled(loaded[key[:2]], fulfilled.get(key[:2], ()), now):
                    if one.step == step.step and one.ended_by is not None:
                        ended[key] = one.ended_by
        return ended

    async def list_of(
        self, tx: Transaction, notification_id: str, *, user_ids: Collection[str] | None = None, limit: int
    ) -> Sequence[WaitingStep]:
        query = select(waiting_steps).where(_w.notification_id == notification_id).order_by(*_KEY).limit(limit)
        if user_ids is not None:
            query = query.where(_w.user_id.in_(text_array(list(user_ids))))
        return [_to_step(row) for row in await connection_of(tx).execute(query)]

    async def list_by_user(
        self, tx: Transaction, user_id: str, *, after: tuple[str, int] | None, limit: int
    ) -> Sequence[WaitingStep]:
        query = select(waiting_steps).where(_w.user_id == user_id).order_by(_w.notification_id, _w.step).limit(limit)
        if after is not None:
            query = query.where(
                tuple_(_w.notification_id, _w.step) > tuple_(literal(after[0], _w.notification_id.type), after[1])
            )
        return [_to_step(row) for row in await connection_of(tx).execute(query)]

    async def _change(self, tx: Transaction, pairs: Collection[Pair], change: Change, now: datetime) -> int:
        """Change the steps of pairs. Returns how many were cancelled."""
        loaded = await _load(tx, pairs, lock=True)
        changed = [step for steps in loaded.values() for step in change(steps)]
        await self._store(tx, changed, now)
        return sum(step.ended_at is not None for step in changed)

    async def _store(self, tx: Transaction, changed: Sequence[WaitingStep], now: datetime) -> None:
        """Store changed steps, and cancel what is unsent of those that were started."""
        await self.save(tx, changed)
        unsent = [
            (step.notification_id, step.user_id, channel, {"by": step.ended_by, "step": step.step})
            for step in changed
            if step.started_at is not None and step.ended_at is not None
            for channel in step.channels
        ]
        if not unsent:
            return
        cancelled = await connection_of(tx).execute(_CANCEL_UNSENT, {"rows": encode_rows(unsent), "now": now})
        rows = cancelled.all()
        if rows and self._status_events.is_enabled:
            reason = SkipReason.STEP_CANCELLED.value
            events = [build_state_event(DeliveryState.SKIPPED, *row, reason=reason, now=now) for row in rows]
            await self._status_events.add(tx, events, now)


async def count_waiting(tx: Transaction, notification_id: str) -> int:
    """Return the number of later steps of a notification that can still start."""
    query = select(func.count()).select_from(waiting_steps)
    return await connection_of(tx).scalar(query.where(_w.notification_id == notification_id, *IS_WAITING)) or 0


async def _load(tx: Transaction, pairs: Collection[Pair], *, lock: bool = False) -> dict[Pair, list[WaitingStep]]:
    """Return all steps of each pair that has some, in order."""
    statement = _LOCK_BY_PAIRS if lock else _SELECT_BY_PAIRS
    loaded: dict[Pair, list[WaitingStep]] = {}
    for row in await connection_of(tx).execute(statement, {"rows": encode_rows(sorted(set(pairs)))}):
        loaded.setdefault((row.notification_id, row.user_id), []).append(_to_step(row))
    return loaded


def _key(step: WaitingStep) -> tuple[str, str, int]:
    return step.notification_id, step.user_id, step.step


def _by_key(steps: Sequence[WaitingStep]) -> dict[tuple[str, str, int], WaitingStep]:
    return {_key(step): step for step in steps}


def _encode_optional(instant: datetime | None) -> str | None:
    return None if instant is None else encode_instant(instant)


def _to_row(step: WaitingStep) -> Sequence[object]:
    return (
        *_key(step),
        step.channels,
        step.after_seconds,
        step.unless,
        step.event,
        step.event_key,
        encode_instant(step.created_at),
        *_to_changed_row(step)[3:],
    )


def _to_changed_row(step: WaitingStep) -> tuple[object, ...]:
    return (
        *_key(step),
        _encode_optional(step.due_at),
        step.cause,
        _encode_optional(step.started_at),
        _encode_optional(step.ended_at),
        step.ended_by,
    )


def _to_step(row: Row[*tuple[Any, ...]]) -> WaitingStep:
    return WaitingStep(
        notification_id=row.notification_id,
        user_id=row.user_id,
        step=row.step,
        channels=tuple(row.channels),
        after_seconds=row.after_seconds,
        unless=row.unless,
        event=row.event,
        event_key=row.event_key,
        created_at=row.created_at,
        due_at=row.due_at,
        cause=None if row.cause is None else StepCause(row.cause),
        started_at=row.started_at,
        ended_at=row.ended_at,
        ended_by=None if row.ended_by is None else StepEnd(row.ended_by),
    )
