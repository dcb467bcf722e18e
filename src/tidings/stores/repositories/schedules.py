"""Schedules of scheduled tasks: one of all processes takes each run by compare-and-set."""

from datetime import datetime, timedelta

from sqlalchemy import select, update

from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import schedules
from tidings.stores.sql.upsert import upsert

_s = schedules.c


class SqlSchedules:
    """Implements `ports.operations.Schedules`."""

    async def claim_run(self, tx: Transaction, name: str, *, every: timedelta, now: datetime) -> bool:
        next_at = await self.next_run_at(tx, name)
        if next_at is None:
            first_run = upsert(tx, schedules).values(name=name, next_at=now + every, last_at=now)
            return (await connection_of(tx).execute(first_run.on_conflict_do_nothing())).rowcount == 1
        if next_at <= now:
            return await self._compare_and_set(
                tx, name, next_at, {"next_at": next_occurrence(next_at, every, now), "last_at": now}
            )
        if next_at > now + every:
            # The clock jumped back, or the interval was shortened. No run is taken: the task may have just run in a
            # process whose clock is slightly ahead.
            await self._compare_and_set(tx, name, next_at, {"next_at": now + every})
        return False

    async def next_run_at(self, tx: Transaction, name: str) -> datetime | None:
        next_at: datetime | None = await connection_of(tx).scalar(select(_s.next_at).where(_s.name == name))
        return next_at

    async def _compare_and_set(
        self, tx: Transaction, name: str, expected: datetime, values: dict[str, datetime]
    ) -> bool:
        updated = await connection_of(tx).execute(
            update(schedules).where(_s.name == name, _s.next_at == expected).values(values)
        )
        return updated.rowcount == 1


def next_occurrence(due: datetime, every: timedelta, now: datetime) -> datetime:
    """Return the first occurrence after `now`, given an occurrence `due` that is not later than `now`."""
    return due + every * ((now - due) // every + 1)
