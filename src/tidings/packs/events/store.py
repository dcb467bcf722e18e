"""SQL of the events pack: one statement per function, inside the transaction given."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, delete, insert, select, update

from tidings.packs.events.events import Event, EventStatus
from tidings.packs.events.tables import events, favourites, tickets
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.upserts import upsert


async def add(tx: Transaction, event: Event) -> None:
    """Insert a new event."""
    await of(tx).execute(insert(events).values(_row(event)))


async def get(tx: Transaction, event_id: str, *, for_update: bool = False) -> Event | None:
    """Return an event; `for_update` holds its row until the transaction ends (SQLite has one writer anyway)."""
    query = select(events).where(events.c.id == event_id)
    row = (await of(tx).execute(query.with_for_update() if for_update else query)).first()
    return None if row is None else _event(row)


async def replace(tx: Transaction, event: Event, *, expected_version: int) -> bool:
    """Write an event over the version that was read; False if somebody else was faster."""
    statement = update(events).where(events.c.id == event.id, events.c.version == expected_version)
    done = await of(tx).execute(statement.values(_row(event)))
    return done.rowcount == 1


async def page(
    tx: Transaction, *, status: EventStatus | None, city: str | None, before: str | None, limit: int
) -> Sequence[Event]:
    """Return events newest first; `before` is the id the last page ended with."""
    query = select(events).order_by(events.c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(events.c.status == status.value)
    if city is not None:
        query = query.where(events.c.city == city)
    if before is not None:
        query = query.where(events.c.id < before)
    return [_event(row) for row in (await of(tx).execute(query)).all()]


async def give_ticket(tx: Transaction, event_id: str, user_id: str, now: datetime) -> None:
    """Make the user's ticket active, new or given before."""
    row = {"event_id": event_id, "user_id": user_id, "status": "active", "created_at": now, "returned_at": None}
    statement = upsert(tx, tickets).values(row)
    await of(tx).execute(
        statement.on_conflict_do_update(
            index_elements=[tickets.c.event_id, tickets.c.user_id], set_={"status": "active", "returned_at": None}
        )
    )


async def return_ticket(tx: Transaction, event_id: str, user_id: str, now: datetime) -> bool:
    """Stop counting the user's ticket; False if there is no active one."""
    statement = update(tickets).where(
        tickets.c.event_id == event_id, tickets.c.user_id == user_id, tickets.c.status == "active"
    )
    return (await of(tx).execute(statement.values(status="returned", returned_at=now))).rowcount == 1


async def add_favourite(tx: Transaction, event: Event, user_id: str, now: datetime) -> None:
    """Note that the user likes the event; once is enough."""
    row = {"event_id": event.id, "user_id": user_id, "host_id": event.host_id, "created_at": now}
    await of(tx).execute(upsert(tx, favourites).values(row).on_conflict_do_nothing())


async def remove_favourite(tx: Transaction, event_id: str, user_id: str) -> bool:
    """Forget that the user likes the event; False if nothing was noted."""
    statement = delete(favourites).where(favourites.c.event_id == event_id, favourites.c.user_id == user_id)
    return (await of(tx).execute(statement)).rowcount == 1


async def move_favourites(tx: Transaction, event: Event) -> None:
    """Follow an event to its new host."""
    statement = update(favourites).where(favourites.c.event_id == event.id)
    await of(tx).execute(statement.values(host_id=event.host_id))


def _row(event: Event) -> dict[str, object]:
    return {**dataclasses.asdict(event), "status": event.status.value}


def _event(row: Row[tuple[object, ...]]) -> Event:
    values = dict(row._mapping)
    return Event(**{**values, "status": EventStatus(values["status"])})
