"""Batches: pending deliveries that travel in one task. Made of what is due, found again when a queue lost them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, column, func, select, update

from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.id_times import earliest_id
from tidings.stores.json_rows import encoded, json_rows
from tidings.stores.schema import BATCHED, NO_ID, WAITING, Instant, deliveries
from tidings.stores.types import Id

_d = deliveries.c
_given = json_rows("rows", _d.notification_id, _d.id, column("woken_batch_id", Id))
_WAKE = (
    update(deliveries)
    .where(_d.id == _given.c.id, _d.notification_id == _given.c.notification_id)
    .values(batch_id=_given.c.woken_batch_id, updated_at=bindparam("now", type_=Instant))
)


class Batches:
    """The part of `ports.store.Deliveries` that groups rows into tasks."""

    async def any_due(self, tx: Transaction, now: datetime) -> bool:
        return await of(tx).scalar(select(_d.id).where(WAITING, _d.due_at <= now).limit(1)) is not None

    async def wake_due(self, tx: Transaction, now: datetime, limit: int) -> Sequence[Task]:
        query = (
            select(_d.notification_id, _d.id, _d.lane, _d.crashes)
            .where(WAITING, _d.due_at <= now)
            .order_by(_d.due_at)
            .limit(limit)
            # what another worker is waking at this moment is its own
            .with_for_update(skip_locked=True)
        )
        tasks: dict[str, Task] = {}
        woken = []
        for notification_id, delivery_id, lane, crashes in await of(tx).execute(query):
            # a worker died with it: it may be the reason, and travels alone
            together = delivery_id if crashes else lane
            if together not in tasks:
                tasks[together] = _task(new_id(now), lane, crashes, now)
            woken.append((notification_id, delivery_id, tasks[together].ref))
        if woken:
            await of(tx).execute(_WAKE, {"rows": encoded(woken), "now": now})
        return list(tasks.values())

    async def waiting_batches(
        self,
        tx: Transaction,
        *,
        after: str | None,
        limit: int,
        lane: Lane | None = None,
        before: datetime | None = None,
    ) -> Sequence[Task]:
        query = (
            select(_d.batch_id, func.min(_d.lane), func.max(_d.crashes), func.min(_d.due_at))
            .where(BATCHED, _d.batch_id > (after or NO_ID))
            .group_by(_d.batch_id)
            .order_by(_d.batch_id)
            .limit(limit)
        )
        if lane is not None:
            query = query.where(_d.lane == lane.value)
        if before is not None:
            query = query.where(_d.batch_id < earliest_id(before))
        return [_task(*row) for row in await of(tx).execute(query)]


def _task(batch_id: str, lane: str, crashes: int, due_at: datetime) -> Task:
    kind = TaskKind.DELIVER_ALONE if crashes else TaskKind.DELIVER
    return Task(batch_id, kind, batch_id, Lane(lane), due_at)
