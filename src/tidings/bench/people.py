"""The benchmark's audience: an event, users with tickets, one simulated device each."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import insert, text

from tidings.bench.backends import Backends, refuse_used
from tidings.bench.progress import progress
from tidings.demo import devices
from tidings.model.ids import new_id
from tidings.model.user import User
from tidings.packs.events.tables import events, tickets
from tidings.runtime import Runtime
from tidings.stores.connection import of

_PAGE = 2_000
#: a realistic spread: words are rendered once per locale and time zone
_PLACES = (("en", "Europe/London"), ("de", "Europe/Berlin"), ("fr", "Europe/Paris"), ("es", "America/Mexico_City"))


#: how the ids of users and devices without a ticket begin
SINGLE = "single-"


async def prepare(chosen: Backends, *, recipients: int, origin: str, singles: int = 0) -> str:
    """Fill an empty database and return the id of the event that `recipients` users have a ticket for.

    origin: of the push service where each has a device; singles: users with a device and no ticket.
    Raises ConfigError for a database that is in use.
    """
    async with Runtime.open(chosen.settings) as runtime:
        await refuse_used(runtime)
        now = runtime.clock.now()
        event_id = new_id(now)
        async with runtime.store.begin() as tx:
            await of(tx).execute(insert(events), _event(event_id, now))
        with progress(f"Making {recipients} recipients", recipients) as tell:
            for start in range(0, recipients, _PAGE):
                numbers = range(start, min(start + _PAGE, recipients))
                await _add(runtime, [f"u{number:07}" for number in numbers], origin, now, event_id)
                if tell is not None:
                    tell(numbers.stop)
        for start in range(0, singles, _PAGE):
            numbers = range(start, min(start + _PAGE, singles))
            await _add(runtime, [single(number) for number in numbers], origin, now)
        await analyze(runtime)
    return event_id


def single(number: int) -> str:
    """Return the id of a user without a ticket."""
    return f"{SINGLE}{number:05}"


async def analyze(runtime: Runtime) -> None:
    """Let PostgreSQL look at what was added at once, as autovacuum would within a minute.

    Until then it takes the tables for small, and reads all users to find one.
    """
    if runtime.settings.sqlite_path is None:
        async with runtime.store.begin() as tx:
            await of(tx).execute(text("ANALYZE"))


async def add_users(runtime: Runtime, count: int) -> list[str]:
    """Add users without devices and return their ids."""
    ids = [f"u{number:07}" for number in range(count)]
    for start in range(0, count, _PAGE):
        async with runtime.store.begin() as tx:
            await runtime.store.users.upsert(tx, _users(ids[start : start + _PAGE]), runtime.clock.now())
    return ids


async def _add(runtime: Runtime, ids: Sequence[str], origin: str, now: datetime, event_id: str | None = None) -> None:
    """Add users with a device each, and a ticket if there is an event."""
    held = [
        {"event_id": event_id, "user_id": user_id, "status": "active", "created_at": now, "returned_at": None}
        for user_id in ids
    ]
    phones = [devices.Simulated(user_id, f"{user_id}-1", "Phone") for user_id in ids]
    async with runtime.store.begin() as tx:
        await runtime.store.users.upsert(tx, _users(ids), now)
        if event_id is not None:
            await of(tx).execute(insert(tickets), held)
        await devices.add(runtime, tx, phones, origin=origin, now=now)


def _users(ids: Sequence[str]) -> list[User]:
    places = (_PLACES[number % len(_PLACES)] for number in range(len(ids)))
    return [User(user_id, locale=locale, timezone=zone) for user_id, (locale, zone) in zip(ids, places, strict=True)]


def _event(event_id: str, now: datetime) -> dict[str, object]:
    return {
        "id": event_id,
        "title": "Benchmark",
        "description": "",
        "start_date": now + timedelta(days=30),
        "end_date": None,
        "venue": "Hall 1",
        "address": None,
        "city": None,
        "host_id": None,
        "status": "ACTIVE",
        "first_published_at": now,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
