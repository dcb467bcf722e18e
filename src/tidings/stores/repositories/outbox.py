"""The outbox: tasks stored in the transaction of their work, and removed after the queue has accepted them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, insert, select

from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import outbox
from tidings.stores.sql.ids import min_uuid_at
from tidings.stores.sql.json_params import id_array


class SqlOutbox:
    """Implements `ports.store.Outbox`."""

    async def add(self, tx: Transaction, tasks: Sequence[Task]) -> None:
        if tasks:
            await connection_of(tx).execute(insert(outbox), [_to_row(task) for task in tasks])

    async def list_due(
        self, tx: Transaction, now: datetime, limit: int, *, created_before: datetime | None = None
    ) -> Sequence[Task]:
        query = select(outbox).where(outbox.c.due_at <= now).order_by(outbox.c.due_at).limit(limit)
        if created_before is not None:
            query = query.where(outbox.c.id < min_uuid_at(created_before))
        return [
            Task(row.id, TaskKind(row.kind), row.ref, Lane(row.lane), row.due_at, row.version)
            for row in await connection_of(tx).execute(query)
        ]

    async def remove(self, tx: Transaction, task_ids: Sequence[str]) -> None:
        await connection_of(tx).execute(delete(outbox).where(outbox.c.id.in_(id_array(task_ids))))

    async def next_due_at(self, tx: Transaction) -> datetime | None:
        due: datetime | None = await connection_of(tx).scalar(
            select(outbox.c.due_at).order_by(outbox.c.due_at).limit(1)
        )
        return due

    async def count_delayed(self, tx: Transaction, now: datetime, *, limit: int) -> dict[Lane, int]:
        delayed = select(outbox.c.lane).where(outbox.c.due_at > now).limit(limit).subquery()
        lanes = await connection_of(tx).execute(select(delayed.c.lane, func.count()).group_by(delayed.c.lane))
        return {Lane(lane): count for lane, count in lanes}


def _to_row(task: Task) -> dict[str, object]:
    return {
        "id": task.id,
        "kind": task.kind.value,
        "ref": task.ref,
        "lane": task.lane.value,
        "version": task.version,
        "due_at": task.due_at,
    }
