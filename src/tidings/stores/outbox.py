"""The outbox: tasks written in the transaction of the work they announce, removed once the queue has them."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, insert, select

from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.id_times import earliest_id
from tidings.stores.json_list import json_ids
from tidings.stores.schema import outbox


class SqlOutbox:
    """Implements `ports.store.Outbox`."""

    async def add(self, tx: Transaction, tasks: Sequence[Task]) -> None:
        if tasks:
            await of(tx).execute(insert(outbox), [_to_row(task) for task in tasks])

    async def due(
        self, tx: Transaction, now: datetime, limit: int, *, made_before: datetime | None = None
    ) -> Sequence[Task]:
        query = select(outbox).where(outbox.c.due_at <= now).order_by(outbox.c.due_at).limit(limit)
        if made_before is not None:
            query = query.where(outbox.c.id < earliest_id(made_before))
        return [
            Task(row.id, TaskKind(row.kind), row.ref, Lane(row.lane), row.due_at, row.version)
            for row in await of(tx).execute(query)
        ]

    async def remove(self, tx: Transaction, task_ids: Sequence[str]) -> None:
        await of(tx).execute(delete(outbox).where(outbox.c.id.in_(json_ids(task_ids))))

    async def next_due(self, tx: Transaction) -> datetime | None:
        due: datetime | None = await of(tx).scalar(select(outbox.c.due_at).order_by(outbox.c.due_at).limit(1))
        return due

    async def delayed(self, tx: Transaction, now: datetime, *, most: int) -> dict[Lane, int]:
        some = select(outbox.c.lane).where(outbox.c.due_at > now).limit(most).subquery()
        lanes = await of(tx).execute(select(some.c.lane, func.count()).group_by(some.c.lane))
        return {Lane(row[0]): row[1] for row in lanes}


def _to_row(task: Task) -> dict[str, object]:
    return {
        "id": task.id,
        "kind": task.kind.value,
        "ref": task.ref,
        "lane": task.lane.value,
        "version": task.version,
        "due_at": task.due_at,
    }
