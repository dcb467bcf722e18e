"""Recurring notifications and their runs."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, exists, insert, or_, select, update

from tidings.model.audience import from_json, to_json
from tidings.model.recurring import REPEATABLE, RecurringNotification, RecurringRun, RunState
from tidings.ports.transaction import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.recurring_tables import (
    WHERE_FINISHED,
    WHERE_PENDING,
    WHERE_SCHEDULED,
    recurring_notifications,
    recurring_runs,
)
from tidings.stores.sql.json_params import id_array, text_array
from tidings.stores.sql.upsert import upsert

_n, _r = recurring_notifications.c, recurring_runs.c
#: characters of a reason that are kept
MAX_REASON = 300


class SqlRecurringNotifications:
    """Implements `ports.recurring.RecurringNotifications`."""

    async def put(self, tx: Transaction, recurring: RecurringNotification, now: datetime) -> bool:
        content = _to_row(recurring) | {"updated_at": now}
        new = upsert(tx, recurring_notifications).values(name=recurring.name, created_at=now, **content)
        inserted = await connection_of(tx).execute(new.on_conflict_do_nothing())
        if inserted.rowcount == 1:
            return True
        changed = update(recurring_notifications).where(_n.name == recurring.name).values(content)
        await connection_of(tx).execute(changed)
        return False

    async def get(self, tx: Transaction, name: str, *, lock: bool = False) -> RecurringNotification | None:
        query = select(recurring_notifications).where(_n.name == name)
        row = (await connection_of(tx).execute(query.with_for_update() if lock else query)).one_or_none()
        return None if row is None else _to_recurring(row)

    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[RecurringNotification]:
        query = select(recurring_notifications).where(_n.name > (after or "")).order_by(_n.name).limit(limit)
        return [_to_recurring(row) for row in await connection_of(tx).execute(query)]

    async def delete(self, tx: Transaction, name: str) -> bool:
        deleted = delete(recurring_notifications).where(_n.name == name)
        return (await connection_of(tx).execute(deleted)).rowcount == 1

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        has_time_come = exists().where(WHERE_SCHEDULED, _n.next_run_at <= now)
        has_due_run = exists().where(WHERE_PENDING, _r.due_at <= now)
        return bool(await connection_of(tx).scalar(select(or_(has_time_come, has_due_run))))

    async def list_due(self, tx: Transaction, now: datetime, limit: int) -> Sequence[RecurringNotification]:
        is_due = (WHERE_SCHEDULED, _n.next_run_at <= now)
        query = select(recurring_notifications).where(*is_due).order_by(_n.next_run_at).limit(limit)
        return [_to_recurring(row) for row in await connection_of(tx).execute(query)]

    async def advance(self, tx: Transaction, recurring: RecurringNotification, next_run_at: datetime) -> bool:
        advanced = (
            update(recurring_notifications)
            .where(
                _n.name == recurring.name,
                _n.next_run_at == recurring.next_run_at,
                _n.updated_at == recurring.updated_at,
            )
            .values(next_run_at=next_run_at)
        )
        return (await connection_of(tx).execute(advanced)).rowcount == 1

    async def add_runs(self, tx: Transaction, runs: Sequence[RecurringRun]) -> None:
        if runs:
            await connection_of(tx).execute(insert(recurring_runs), [_to_run_row(run) for run in runs])

    async def claim_runs(
        self, tx: Transaction, now: datetime, *, hidden_until: datetime, limit: int
    ) -> Sequence[RecurringRun]:
        is_due = (WHERE_PENDING, _r.due_at <= now)
        due = select(_r.id).where(*is_due).order_by(_r.due_at).limit(limit).with_for_update(skip_locked=True)
        ids = (await connection_of(tx).scalars(due)).all()
        if not ids:
            return []
        claimed = (
            update(recurring_runs)
            .where(_r.id.in_(id_array(ids)))
            .values(due_at=hidden_until, attempts=_r.attempts + 1)
            .returning(*_r)
        )
        runs = [_to_run(row) for row in await connection_of(tx).execute(claimed)]
        return sorted(runs, key=lambda run: (run.scheduled_at, run.id))

    async def finish_run(
        self,
        tx: Transaction,
        run: RecurringRun,
        state: RunState,
        now: datetime,
        *,
        notification_id: str | None = None,
        reason: str | None = None,
    ) -> bool:
        result = {"state": state.value, "notification_id": notification_id, "reason": _cut(reason), "finished_at": now}
        return await _update_claimed(tx, run, result)

    async def defer_run(self, tx: Transaction, run: RecurringRun, due_at: datetime, reason: str | None) -> bool:
        return await _update_claimed(tx, run, {"due_at": due_at, "reason": _cut(reason)})

    async def repeat_run(self, tx: Transaction, run: RecurringRun, deadline: datetime, now: datetime) -> bool:
        reopened = {"state": RunState.PENDING.value, "attempts": 0, "due_at": now, "deadline": deadline}
        changed = (
            update(recurring_runs)
            .where(_r.id == run.id, _r.state.in_([state.value for state in REPEATABLE]))
            .values(reopened | {"reason": None, "finished_at": None})
        )
        return (await connection_of(tx).execute(changed)).rowcount == 1

    async def cancel_runs(self, tx: Transaction, name: str, reason: str, now: datetime) -> int:
        cancelled = (
            update(recurring_runs)
            .where(_r.name == name, WHERE_PENDING)
            .values(state=RunState.CANCELLED.value, reason=reason, finished_at=now)
        )
        return (await connection_of(tx).execute(cancelled)).rowcount

    async def get_run(self, tx: Transaction, name: str, run_id: str) -> RecurringRun | None:
        query = select(recurring_runs).where(_r.id == run_id, _r.name == name)
        row = (await connection_of(tx).execute(query)).one_or_none()
        return None if row is None else _to_run(row)

    async def list_runs(self, tx: Transaction, name: str, *, before: str | None, limit: int) -> Sequence[RecurringRun]:
        query = select(recurring_runs).where(_r.name == name).order_by(_r.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_r.id < before)
        return [_to_run(row) for row in await connection_of(tx).execute(query)]

    async def list_pending_runs(self, tx: Transaction, *, limit: int) -> Sequence[RecurringRun]:
        query = select(recurring_runs).where(WHERE_PENDING).order_by(_r.due_at, _r.id).limit(limit)
        return [_to_run(row) for row in await connection_of(tx).execute(query)]

    async def find_last_runs(self, tx: Transaction, names: Collection[str]) -> Mapping[str, RecurringRun]:
        newest = (
            select(_r.id)
            .where(_r.name == _n.name)
            .order_by(_r.id.desc())
            .limit(1)
            .correlate(recurring_notifications)
            .scalar_subquery()
        )
        ids = (await connection_of(tx).scalars(select(newest).where(_n.name.in_(text_array(list(names)))))).all()
        query = select(recurring_runs).where(_r.id.in_(id_array([one for one in ids if one is not None])))
        return {row.name: _to_run(row) for row in await connection_of(tx).execute(query)}

    async def purge_runs(self, tx: Transaction, finished_before: datetime) -> int:
        old = delete(recurring_runs).where(WHERE_FINISHED, _r.finished_at < finished_before)
        return (await connection_of(tx).execute(old)).rowcount


async def _update_claimed(tx: Transaction, run: RecurringRun, values: Mapping[str, object]) -> bool:
    """Change a run if it is pending and no other worker has claimed it since. Returns whether it was changed."""
    changed = update(recurring_runs).where(_r.id == run.id, WHERE_PENDING, _r.attempts == run.attempts).values(values)
    return (await connection_of(tx).execute(changed)).rowcount == 1


def _cut(reason: str | None) -> str | None:
    return None if reason is None else reason[:MAX_REASON]


def _to_row(recurring: RecurringNotification) -> dict[str, object]:
    """Return the columns besides name and times of change."""
    catch_up = recurring.catch_up
    return {
        "description": recurring.description,
        "template_code": recurring.template_code,
        "audience": to_json(recurring.audience),
        "variables": dict(recurring.variables),
        "options": dict(recurring.options),
        "variables_url": recurring.variables_url,
        "variables_function": recurring.variables_function,
        "times": list(recurring.at),
        "timezone": recurring.timezone,
        "catch_up_seconds": None if catch_up is None else int(catch_up.total_seconds()),
        "is_paused": recurring.is_paused,
        "next_run_at": recurring.next_run_at,
    }


def _to_recurring(row: Row[*tuple[Any, ...]]) -> RecurringNotification:
    seconds = row.catch_up_seconds
    return RecurringNotification(
        name=row.name,
        template_code=row.template_code,
        audience=from_json(row.audience),
        at=tuple(row.times),
        timezone=row.timezone,
        variables=row.variables,
        options=row.options,
        variables_url=row.variables_url,
        variables_function=row.variables_function,
        catch_up=None if seconds is None else timedelta(seconds=seconds),
        description=row.description,
        is_paused=row.is_paused,
        next_run_at=row.next_run_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _to_run_row(run: RecurringRun) -> dict[str, object]:
    return {
        "id": run.id,
        "name": run.name,
        "scheduled_at": run.scheduled_at,
        "deadline": run.deadline,
        "timezones": None if run.timezones is None else list(run.timezones),
        "is_manual": run.is_manual,
        "state": run.state.value,
        "attempts": run.attempts,
        "due_at": run.due_at or run.scheduled_at,
        "notification_id": run.notification_id,
        "reason": run.reason,
        "finished_at": run.finished_at,
    }


def _to_run(row: Row[*tuple[Any, ...]]) -> RecurringRun:
    return RecurringRun(
        id=row.id,
        name=row.name,
        scheduled_at=row.scheduled_at,
        deadline=row.deadline,
        timezones=None if row.timezones is None else tuple(row.timezones),
        is_manual=row.is_manual,
        state=RunState(row.state),
        attempts=row.attempts,
        due_at=row.due_at,
        notification_id=row.notification_id,
        reason=row.reason,
        finished_at=row.finished_at,
    )
