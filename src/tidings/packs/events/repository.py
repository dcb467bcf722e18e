"""SQL of the events pack: one statement per function, in the caller's transaction."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Row, delete, insert, select, update

from tidings.model.stream import StreamEvent
from tidings.packs.events.event import Event, EventStatus
from tidings.packs.events.tables import events, favourites, tickets
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.sql.upsert import upsert


async def add(tx: Transaction, event: Event) -> None:
    """Insert a new event."""
    await connection_of(tx).execute(insert(events).values(_to_row(event)))


async def get(tx: Transaction, event_id: str, *, for_update: bool = False) -> Event | None:
    """Return an event or None. `for_update` locks its row until the transaction ends (SQLite has one writer anyway)."""
    query = select(events).where(events.c.id == event_id)
    row = (await connection_of(tx).execute(query.with_for_update() if for_update else query)).first()
    return None if row is None else _to_event(row)


async def find_stream(tx: Transaction, event_id: str) -> StreamEvent | None:
    """Return what the live room of an event needs to know, None if there is no such event."""
    query = select(events.c.title, events.c.host_id, events.c.status).where(events.c.id == event_id)
    row = (await connection_of(tx).execute(query)).first()
    if row is None:
        return None
    is_public = row.status in (EventStatus.ACTIVE.value, EventStatus.COMPLETED.value)
    return StreamEvent(event_id, row.title, row.host_id, is_public=is_public)


async def has_ticket(tx: Transaction, event_id: str, user_id: str) -> bool:
    """Whether a user has an active ticket of an event."""
    c = tickets.c
    query = select(c.user_id).where(c.event_id == event_id, c.user_id == user_id, c.status == "active")
    return await connection_of(tx).scalar(query) is not None


async def has_event(tx: Transaction, event_id: str) -> bool:
    """Whether there is an event with this id."""
    return await connection_of(tx).scalar(select(events.c.id).where(events.c.id == event_id)) is not None


async def replace(tx: Transaction, event: Event, *, expected_version: int) -> bool:
    """Replace an event if its version is still the expected one. False if it was changed concurrently."""
    statement = update(events).where(events.c.id == event.id, events.c.version == expected_version)
    result = await connection_of(tx).execute(statement.values(_to_row(event)))
    return result.rowcount == 1


async def page(
    tx: Transaction, *, status: EventStatus | None, city: str | None, before: str | None, limit: int
) -> Sequence[Event]:
    """Return events, newest first. `before` is the last id of the previous page."""
    query = select(events).order_by(events.c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(events.c.status == status.value)
    if city is not None:
        query = query.where(events.c.city == city)
    if before is not None:
        query = query.where(events.c.id < before)
    return [_to_event(row) for row in (await connection_of(tx).execute(query)).all()]


async def give_ticket(tx: Transaction, event_id: str, user_id: str, now: datetime) -> None:
    """Create the user's ticket, or reactivate a returned one."""
    row = {"event_id": event_id, "user_id": user_id, "status": "active", "created_at": now, "returned_at": None}
    statement = upsert(tx, tickets).values(row)
    await connection_of(tx).execute(
        statement.on_conflict_do_update(
            index_elements=[tickets.c.event_id, tickets.c.user_id], set_={"status": "active", "returned_at": None}
        )
    )


async def return_ticket(tx: Transaction, event_id: str, user_id: str, now: datetime) -> bool:
    """Mark the user's active ticket as returned. False if there is none."""
    statement = update(tickets).where(
        tickets.c.event_id == event_id, tickets.c.user_id == user_id, tickets.c.status == "active"
    )
    return (await connection_of(tx).execute(statement.values(status="returned", returned_at=now))).rowcount == 1


async def add_favourite(tx: Transaction, event: Event, user_id: str, now: datetime) -> None:
    """Add the event to the user's favourites. Repeating it changes nothing."""
    row = {"event_id": event.id, "user_id": user_id, "host_id": event.host_id, "created_at": now}
    await connection_of(tx).execute(upsert(tx, favourites).values(row).on_conflict_do_nothing())


async def remove_favourite(tx: Transaction, event_id: str, user_id: str) -> bool:
    """Remove the event from the user's favourites. False if it was not one."""
    statement = delete(favourites).where(favourites.c.event_id == event_id, favourites.c.user_id == user_id)
    return (await connection_of(tx).execute(statement)).rowcount == 1


async def export(tx: Transaction, user_id: str) -> Mapping[str, object]:
    """Return the user's tickets and favourites."""
    ticket_query = select(tickets).where(tickets.c.user_id == user_id).order_by(tickets.c.event_id)
    favourite_query = select(favourites).where(favourites.c.user_id == user_id).order_by(favourites.c.event_id)
    return {
        "tickets": [
            {
                "eventId": row.event_id,
                "status": row.status,
                "createdAt": row.created_at,
                "returnedAt": row.returned_at,
            }
            for row in await connection_of(tx).execute(ticket_query)
        ],
        "favourites": [
            {"eventId": row.event_id, "hostId": row.host_id, "createdAt": row.created_at}
            for row in await connection_of(tx).execute(favourite_query)
        ],
    }


async def erase(tx: Transaction, user_id: str) -> None:
    """Delete the user's tickets and favourites."""
    for table in (tickets, favourites):
        await connection_of(tx).execute(delete(table).where(table.c.user_id == user_id))


async def move_favourites(tx: Transaction, event: Event) -> None:
    """Update the host in the favourites of an event."""
    statement = update(favourites).where(favourites.c.event_id == event.id)
    await connection_of(tx).execute(statement.values(host_id=event.host_id))


def _to_row(event: Event) -> dict[str, object]:
    return {**dataclasses.asdict(event), "status": event.status.value}


def _to_event(row: Row[tuple[object, ...]]) -> Event:
    values = dict(row._mapping)
    return Event(**{**values, "status": EventStatus(values["status"])})
