"""SQL of the streams pack: one statement per function, in the caller's transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Row, Select, delete, func, insert, select, update

from tidings.model.stream import CountBy, StreamAccess, StreamEpoch, StreamSettings
from tidings.packs.streams.tables import (
    WHERE_NOTICE_DUE,
    WHERE_OPEN,
    stream_access,
    stream_epochs,
    stream_settings,
    websocket_tickets,
)
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import users
from tidings.stores.sql.json_params import text_array
from tidings.stores.sql.upsert import upsert

_e = stream_epochs.c
#: a longer number in an audience is no epoch, and does not fit into the column
MAX_EPOCH_DIGITS = 9


async def open_epoch(tx: Transaction, event_id: str, now: datetime) -> int:
    """Return the open epoch of an event; begin the next one if there is none."""
    latest = select(func.coalesce(func.max(_e.epoch), 0) + 1).where(_e.event_id == event_id).scalar_subquery()
    row = {"event_id": event_id, "epoch": latest, "started_at": now}
    while (epoch := await find_open_epoch(tx, event_id)) is None:
        # the unique index of open epochs: of processes that begin one at the same time, all get the same
        await connection_of(tx).execute(upsert(tx, stream_epochs).values(row).on_conflict_do_nothing())
    return epoch


async def find_open_epoch(tx: Transaction, event_id: str) -> int | None:
    """Return the open epoch of an event, None if there is none."""
    epoch: int | None = await connection_of(tx).scalar(select(_e.epoch).where(WHERE_OPEN, _e.event_id == event_id))
    return epoch


async def end_epoch(tx: Transaction, event_id: str, epoch: int, *, last_seen_at: datetime, now: datetime) -> bool:
    """Mark an epoch as ended. False if it has ended already: of any number of callers, one receives True."""
    statement = update(stream_epochs).where(WHERE_OPEN, _e.event_id == event_id, _e.epoch == epoch)
    result = await connection_of(tx).execute(statement.values(last_seen_at=last_seen_at, ended_at=now))
    return result.rowcount == 1


async def record_notice(
    tx: Transaction,
    event_id: str,
    epochs: Collection[int],
    *,
    notice: str,
    host_id: str | None,
    due_at: datetime | None = None,
    notification_id: str | None = None,
) -> None:
    """Record what became of the notice about ends of one event."""
    statement = update(stream_epochs).where(_e.event_id == event_id, _e.epoch.in_(epochs))
    await connection_of(tx).execute(
        statement.values(notice=notice, host_id=host_id, notice_due_at=due_at, notification_id=notification_id)
    )


async def list_recent_ends(tx: Transaction, host_id: str, since: datetime) -> Sequence[StreamEpoch]:
    """Return the ends of a host's streams since an instant, oldest first."""
    query = select(stream_epochs).where(_e.host_id == host_id, _e.ended_at >= since).order_by(_e.ended_at)
    return [_to_epoch(row) for row in await connection_of(tx).execute(query)]


async def list_due_notices(tx: Transaction, now: datetime, limit: int) -> Sequence[StreamEpoch]:
    """Return the ends whose grouped notice is due, oldest first."""
    query = (
        select(stream_epochs).where(WHERE_NOTICE_DUE, _e.notice_due_at <= now).order_by(_e.notice_due_at).limit(limit)
    )
    return [_to_epoch(row) for row in await connection_of(tx).execute(query)]


async def list_waiting_notices(tx: Transaction, host_id: str) -> Sequence[StreamEpoch]:
    """Return the ends of a host that wait for a grouped notice; locked on PostgreSQL."""
    query = (
        select(stream_epochs)
        .where(WHERE_NOTICE_DUE, _e.host_id == host_id)
        .order_by(_e.event_id, _e.epoch)
        .with_for_update()
    )
    return [_to_epoch(row) for row in await connection_of(tx).execute(query)]


async def list_open_epochs(tx: Transaction, after: str, limit: int) -> Sequence[StreamEpoch]:
    """Return the open epochs, in the order of their events. after: id of the last event of the page before."""
    query = select(stream_epochs).where(WHERE_OPEN, _e.event_id > after).order_by(_e.event_id).limit(limit)
    return [_to_epoch(row) for row in await connection_of(tx).execute(query)]


async def find_latest_epoch(tx: Transaction, event_id: str) -> StreamEpoch | None:
    """Return the latest epoch of an event, None if its stream was never live."""
    query = select(stream_epochs).where(_e.event_id == event_id).order_by(_e.epoch.desc()).limit(1)
    row = (await connection_of(tx).execute(query)).first()
    return None if row is None else _to_epoch(row)


async def load_settings(tx: Transaction, event_id: str, host_id: str | None) -> StreamSettings:
    """Return the settings of an event's room; where it has none, those of its host."""
    c, a = stream_settings.c, stream_access.c
    rows: list[Row[tuple[float | None, str | None]]] = []
    access: str | None = None
    for scope, owner in (("event", event_id), ("host", host_id)):
        if owner is not None:
            query = select(c.grace_seconds, c.count_by).where(c.scope == scope, c.owner == owner)
            rows += (await connection_of(tx).execute(query)).all()
            if access is None:
                access = await connection_of(tx).scalar(select(a.access).where(a.scope == scope, a.owner == owner))
    grace = next((row.grace_seconds for row in rows if row.grace_seconds is not None), None)
    count_by = next((row.count_by for row in rows if row.count_by is not None), None)
    return StreamSettings(
        grace,
        None if count_by is None else CountBy(count_by),
        None if access is None else StreamAccess(access),
    )


async def save_settings(tx: Transaction, scope: str, owner: str, settings: StreamSettings) -> None:
    """Replace the settings of an event or of a host."""
    values = {"grace_seconds": settings.grace_seconds, "count_by": settings.count_by}
    statement = upsert(tx, stream_settings).values(scope=scope, owner=owner, **values)
    await connection_of(tx).execute(
        statement.on_conflict_do_update(index_elements=[stream_settings.c.scope, stream_settings.c.owner], set_=values)
    )
    a = stream_access.c
    if settings.access is None:
        await connection_of(tx).execute(delete(stream_access).where(a.scope == scope, a.owner == owner))
        return
    row = upsert(tx, stream_access).values(scope=scope, owner=owner, access=settings.access)
    await connection_of(tx).execute(
        row.on_conflict_do_update(index_elements=[a.scope, a.owner], set_={"access": settings.access})
    )


async def add_ticket(
    tx: Transaction, digest: str, user_id: str, *, authorized_until: datetime, expires_at: datetime
) -> None:
    """Store a ticket of a WebSocket by its digest."""
    row = {"digest": digest, "user_id": user_id, "authorized_until": authorized_until, "expires_at": expires_at}
    await connection_of(tx).execute(insert(websocket_tickets).values(row))


async def redeem_ticket(tx: Transaction, digest: str, now: datetime) -> tuple[str, datetime] | None:
    """Delete a ticket and return its user and the end of the authorisation, None if it is unknown or has expired."""
    c = websocket_tickets.c
    statement = delete(websocket_tickets).where(c.digest == digest)
    row = (await connection_of(tx).execute(statement.returning(c.user_id, c.authorized_until, c.expires_at))).first()
    return None if row is None or row.expires_at <= now else (row.user_id, row.authorized_until)


async def purge_tickets(tx: Transaction, now: datetime) -> None:
    """Delete the tickets that have expired."""
    await connection_of(tx).execute(delete(websocket_tickets).where(websocket_tickets.c.expires_at <= now))


def select_stream_host(arguments: Mapping[str, object]) -> Select[str]:
    """Return the SELECT of the host of an ended epoch, empty once a later epoch has begun."""
    later = stream_epochs.alias("later")
    text = str(arguments["epoch"])
    epoch = int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_EPOCH_DIGITS else 0
    has_later = select(later.c.epoch).where(later.c.event_id == _e.event_id, later.c.epoch > _e.epoch)
    return select(_e.host_id).where(
        _e.event_id == arguments["eventId"],
        _e.epoch == epoch,
        _e.ended_at.is_not(None),
        _e.host_id.is_not(None),
        ~has_later.exists(),
    )


async def filter_users(tx: Transaction, user_ids: Collection[str]) -> set[str]:
    """Return which of the ids belong to users."""
    query = select(users.c.id).where(users.c.id.in_(text_array(user_ids)))
    return set((await connection_of(tx).scalars(query)).all())


async def export(tx: Transaction, user_id: str) -> Mapping[str, object]:
    """Return the ended streams of a host, the settings of the host's rooms, and the user's unused tickets."""
    query = select(stream_epochs).where(_e.host_id == user_id).order_by(_e.event_id, _e.epoch)
    c = stream_settings.c
    settings = select(stream_settings).where(c.scope == "host", c.owner == user_id)
    access = select(stream_access.c.access).where(stream_access.c.scope == "host", stream_access.c.owner == user_id)
    tickets = select(websocket_tickets.c.expires_at).where(websocket_tickets.c.user_id == user_id)
    return {
        "webSocketTickets": [{"expiresAt": row.expires_at} for row in await connection_of(tx).execute(tickets)],
        "streams": [
            {
                "eventId": row.event_id,
                "epoch": row.epoch,
                "startedAt": row.started_at,
                "endedAt": row.ended_at,
                "notice": row.notice,
            }
            for row in await connection_of(tx).execute(query)
        ],
        "streamSettings": [
            {"graceSeconds": row.grace_seconds, "countBy": row.count_by}
            for row in await connection_of(tx).execute(settings)
        ],
        "streamAccess": await connection_of(tx).scalar(access),
    }


async def erase(tx: Transaction, user_id: str) -> None:
    """Delete the user's tickets and settings, and the user's id from the records of ended streams."""
    c = stream_settings.c
    await connection_of(tx).execute(delete(websocket_tickets).where(websocket_tickets.c.user_id == user_id))
    await connection_of(tx).execute(delete(stream_settings).where(c.scope == "host", c.owner == user_id))
    a = stream_access.c
    await connection_of(tx).execute(delete(stream_access).where(a.scope == "host", a.owner == user_id))
    await connection_of(tx).execute(
        update(stream_epochs).where(_e.host_id == user_id).values(host_id=None, notice_due_at=None)
    )


def _to_epoch(row: Row[tuple[object, ...]]) -> StreamEpoch:
    return StreamEpoch(**row._mapping)
