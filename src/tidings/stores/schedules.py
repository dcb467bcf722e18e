"""Schedules: what runs at intervals, taken by one of all processes with one compare-and-set."""

from datetime import datetime, timedelta

from sqlalchemy import select, update

from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.schema import schedules
from tidings.stores.upserts import upsert

_s = schedules.c


class SqlSchedules:
    """Implements `ports.operations.Schedules`."""

    async def claim(self, tx: Transaction, name: str, *, every: timedelta, now: datetime) -> bool:
        seen = await self.next_run(tx, name)
        if seen is None:
            first = upsert(tx, schedules).values(name=name, next_at=now + every, last_at=now)
            return (await of(tx).execute(first.on_conflict_do_nothing())).rowcount == 1
        if seen <= now:
            return await self._move(tx, name, seen, {"next_at": next_beat(seen, every, now), "last_at": now})
        if seen > now + every:
            # The clock jumped back, or the interval was made shorter. No run on this account alone: another process's
            # clock may only be a moment ahead of ours, and it has just run.
            await self._move(tx, name, seen, {"next_at": now + every})
        return False

    async def next_run(self, tx: Transaction, name: str) -> datetime | None:
        due: datetime | None = await of(tx).scalar(select(_s.next_at).where(_s.name == name))
        return due

    async def _move(self, tx: Transaction, name: str, seen: datetime, values: dict[str, datetime]) -> bool:
        moved = await of(tx).execute(update(schedules).where(_s.name == name, _s.next_at == seen).values(values))
        return moved.rowcount == 1


def next_beat(due: datetime, every: timedelta, now: datetime) -> datetime:
    """Return the first beat of the schedule after `now`, given one that is not later than `now`."""
    return due + every * ((now - due) // every + 1)
