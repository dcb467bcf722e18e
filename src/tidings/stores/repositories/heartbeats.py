"""Heartbeats: the running processes and the state they last reported."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, select

from tidings.ports.operations import Process
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import processes
from tidings.stores.sql.upsert import upsert

_p = processes.c


class SqlProcesses:
    """Implements `ports.operations.Processes`."""

    async def heartbeat(self, tx: Transaction, process: Process) -> None:
        statement = upsert(tx, processes).values(asdict(process))
        await connection_of(tx).execute(
            statement.on_conflict_do_update(
                index_elements=[_p.id],
                set_={name: statement.excluded[name] for name in ("seen_at", "detail")},
            )
        )

    async def deregister(self, tx: Transaction, process_id: str) -> None:
        await connection_of(tx).execute(delete(processes).where(_p.id == process_id))

    async def list_alive(self, tx: Transaction, since: datetime) -> Sequence[Process]:
        query = select(processes).where(_p.seen_at >= since).order_by(_p.started_at, _p.id)
        return [Process(**row._mapping) for row in await connection_of(tx).execute(query)]

    async def purge(self, tx: Transaction, before: datetime) -> int:
        return (await connection_of(tx).execute(delete(processes).where(_p.seen_at < before))).rowcount
