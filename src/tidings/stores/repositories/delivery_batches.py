"""Batches: groups due deliveries into tasks, and lists the batches of tasks that a queue lost."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, bindparam, column, func, select, update

from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import MAX_CLOCK_DIFFERENCE, Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import MIN_ID, WHERE_BATCHED, WHERE_UNBATCHED, Instant, deliveries
from tidings.stores.sql.ids import Id, min_uuid_at
from tidings.stores.sql.json_params import encode_rows, rowset

_d = deliveries.c
_batch_assignments = rowset("rows", _d.notification_id, _d.id, column("new_batch_id", Id))
_ASSIGN_BATCHES = (
    update(deliveries)
    .where(_d.id == _batch_assignments.c.id, _d.notification_id == _batch_assignments.c.notification_id)
    .values(batch_id=_batch_assignments.c.new_batch_id, updated_at=bindparam("now", type_=Instant))
)


class DeliveryBatches:
    """The part of `ports.store.Deliveries` that groups deliveries into tasks."""

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        return (
            await connection_of(tx).scalar(select(_d.id).where(WHERE_UNBATCHED, _d.due_at <= now).limit(1)) is not None
        )

    async def batch_due(
        self, tx: Transaction, now: datetime, batch_size: int, *, max_batches: int = 1
    ) -> Sequence[Task]:
        query = (
            select(_d.notification_id, _d.id, _d.lane, _d.crashes)
            .where(WHERE_UNBATCHED, _d.due_at <= now)
            .order_by(_d.due_at)
            .limit(batch_size * max_batches)
            # skips rows that another worker is batching
            .with_for_update(skip_locked=True)
        )
        groups: defaultdict[str, list[Row[tuple[str, str, str, int]]]] = defaultdict(list)
        for row in await connection_of(tx).execute(query):
            # a delivery that may have crashed a worker gets its own batch
            groups[row.id if row.crashes else row.lane].append(row)
        tasks, assignments = [], []
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                task = _to_task(new_id(now), group[0].lane, group[0].crashes, now)
                tasks.append(task)
                assignments += [(row.notification_id, row.id, task.ref) for row in group[start : start + batch_size]]
        if assignments:
            await connection_of(tx).execute(_ASSIGN_BATCHES, {"rows": encode_rows(assignments), "now": now})
        return tasks

    async def advance_retries(self, tx: Transaction, now: datetime) -> int:
        written_by_clock_ahead = _d.updated_at > now + MAX_CLOCK_DIFFERENCE
        advanced = await connection_of(tx).execute(
            update(deliveries)
            .where(WHERE_UNBATCHED, _d.due_at > now + MAX_CLOCK_DIFFERENCE, written_by_clock_ahead)
            .values(due_at=now, updated_at=now)
        )
        return advanced.rowcount

    async def list_pending_batches(
        self,
        tx: Transaction,
        *,
        after: str | None,
        limit: int,
        lane: Lane | None = None,
        created_before: datetime | None = None,
    ) -> Sequence[Task]:
        query = (
            select(_d.batch_id, func.min(_d.lane), func.max(_d.crashes), func.min(_d.due_at))
            .where(WHERE_BATCHED, _d.batch_id > (after or MIN_ID))
            .group_by(_d.batch_id)
            .order_by(_d.batch_id)
            .limit(limit)
        )
        if lane is not None:
            query = query.where(_d.lane == lane.value)
        if created_before is not None:
            query = query.where(_d.batch_id < min_uuid_at(created_before))
        return [_to_task(*row) for row in await connection_of(tx).execute(query)]


def _to_task(batch_id: str, lane: str, crashes: int, due_at: datetime) -> Task:
    kind = TaskKind.DELIVER_ALONE if crashes else TaskKind.DELIVER
    return Task(batch_id, kind, batch_id, Lane(lane), due_at)
