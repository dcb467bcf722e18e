"""The outbox of status events: batches stored in the transaction of their cause, removed after they were confirmed."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import delete, insert, select, update

from tidings.model.ids import new_id
from tidings.model.status_event import StatusEvent, StatusEventBatch
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.endpoint_tables import status_events
from tidings.stores.sql.json_params import id_array

_e = status_events.c
#: events in a batch, so that a request has about 20 KB
BATCH_SIZE = 50


class SqlStatusEvents:
    """Implements `ports.status_events.StatusEvents`, and adds events for the other repositories."""

    def __init__(self, *, is_enabled: bool) -> None:
        #: False: nothing is stored
        self.is_enabled = is_enabled

    async def add(self, tx: Transaction, events: Sequence[StatusEvent], now: datetime) -> None:
        """Store events, due now."""
        rows = [
            {
                "id": new_id(now),
                "events": msgspec.json.encode(events[start : start + BATCH_SIZE]),
                "count": len(events[start : start + BATCH_SIZE]),
                "created_at": now,
                "due_at": now,
                "attempts": 0,
            }
            for start in range(0, len(events), BATCH_SIZE)
        ]
        if rows:
            await connection_of(tx).execute(insert(status_events), rows)

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        return await connection_of(tx).scalar(select(_e.id).where(_e.due_at <= now).limit(1)) is not None

    async def claim_due(
        self, tx: Transaction, now: datetime, *, hidden_until: datetime, limit: int
    ) -> Sequence[StatusEventBatch]:
        query = (
            select(_e.id, _e.events, _e.count, _e.created_at, _e.attempts)
            .where(_e.due_at <= now)
            .order_by(_e.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        rows = (await connection_of(tx).execute(query)).all()
        if rows:
            await connection_of(tx).execute(
                update(status_events)
                .where(_e.id.in_(id_array([row.id for row in rows])))
                .values(due_at=hidden_until, attempts=_e.attempts + 1)
            )
        return [StatusEventBatch(row.id, row.events, row[2], row.created_at, row.attempts + 1) for row in rows]

    async def remove(self, tx: Transaction, ids: Sequence[str]) -> None:
        await connection_of(tx).execute(delete(status_events).where(_e.id.in_(id_array(ids))))

    async def defer(self, tx: Transaction, batch_id: str, due_at: datetime) -> None:
        await connection_of(tx).execute(update(status_events).where(_e.id == batch_id).values(due_at=due_at))

    async def purge(self, tx: Transaction, created_before: datetime) -> int:
        deleted = await connection_of(tx).execute(
            delete(status_events).where(_e.created_at < created_before).returning(_e.count)
        )
        return sum(deleted.scalars())
