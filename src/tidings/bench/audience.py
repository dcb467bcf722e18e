"""Test data of the benchmarks: an event, and users with a ticket and one simulated device each."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import cycle

from sqlalchemy import insert, text

from tidings.bench.backends import Backends, require_empty_database
from tidings.bench.report import show_progress
from tidings.container import AppContainer
from tidings.demo import devices
from tidings.model.ids import new_id
from tidings.model.user import User
from tidings.packs.events.tables import events, tickets
from tidings.stores.engine.transaction import connection_of

_PAGE_SIZE = 2_000
#: several locales and time zones, because a message is rendered once per locale and time zone
_LOCALES_AND_ZONES = (
    ("en", "Europe/London"),
    ("de", "Europe/Berlin"),
    ("fr", "Europe/Paris"),
    ("es", "America/Mexico_City"),
)

#: prefix of the ids of users without a ticket, and of their devices
SINGLE_USER_PREFIX = "single-"


async def prepare_audience(backends: Backends, *, recipients: int, origin: str, singles: int = 0) -> str:
    """Fill an empty database and return the id of the event for which `recipients` users have a ticket.

    Arguments: origin — of the push service where each user has a device; singles — number of users with a device and
    no ticket. Raises ConfigError for a database that is in use.
    """
    async with AppContainer.open(backends.settings) as runtime:
        await require_empty_database(runtime)
        now = runtime.clock.now()
        event_id = new_id(now)
        async with runtime.store.transaction() as tx:
            await connection_of(tx).execute(insert(events), _event_row(event_id, now))
        with show_progress(f"Creating {recipients} recipients", recipients) as report:
            for start in range(0, recipients, _PAGE_SIZE):
                numbers = range(start, min(start + _PAGE_SIZE, recipients))
                await _add_with_devices(runtime, [f"u{number:07}" for number in numbers], origin, now, event_id)
                if report is not None:
                    report(numbers.stop)
        for start in range(0, singles, _PAGE_SIZE):
            numbers = range(start, min(start + _PAGE_SIZE, singles))
            await _add_with_devices(runtime, [single_user_id(number) for number in numbers], origin, now)
        await analyze(runtime)
    return event_id


def single_user_id(number: int) -> str:
    """Return the id of a user without a ticket."""
    return f"{SINGLE_USER_PREFIX}{number:05}"


async def analyze(runtime: AppContainer) -> None:
    """Update PostgreSQL's planner statistics now, as autovacuum would within a minute.

    With the statistics of empty tables the planner reads all users to find one.
    """
    if runtime.settings.sqlite_path is None:
        async with runtime.store.transaction() as tx:
            await connection_of(tx).execute(text("ANALYZE"))


async def add_users(runtime: AppContainer, count: int, *, email_domain: str | None = None) -> list[str]:
    """Add users without devices and return their ids. email_domain: of their addresses; None = they have none."""
    ids = [f"u{number:07}" for number in range(count)]
    for start in range(0, count, _PAGE_SIZE):
        people = _build_users(ids[start : start + _PAGE_SIZE], email_domain)
        async with runtime.store.transaction() as tx:
            await runtime.store.users.upsert(tx, people, runtime.clock.now())
    return ids


async def _add_with_devices(
    runtime: AppContainer, ids: Sequence[str], origin: str, now: datetime, event_id: str | None = None
) -> None:
    """Add users with one device each, and a ticket if there is an event."""
    ticket_rows = [
        {"event_id": event_id, "user_id": user_id, "status": "active", "created_at": now, "returned_at": None}
        for user_id in ids
    ]
    user_devices = [devices.DemoDevice(user_id, f"{user_id}-1", "Phone") for user_id in ids]
    async with runtime.store.transaction() as tx:
        await runtime.store.users.upsert(tx, _build_users(ids), now)
        if event_id is not None:
            await connection_of(tx).execute(insert(tickets), ticket_rows)
        await devices.subscribe_devices(runtime, tx, user_devices, origin=origin, now=now)


def _build_users(ids: Sequence[str], email_domain: str | None = None) -> list[User]:
    return [
        User(user_id, email=f"{user_id}@{email_domain}" if email_domain else None, locale=locale, timezone=timezone)
        for user_id, (locale, timezone) in zip(ids, cycle(_LOCALES_AND_ZONES), strict=False)
    ]


def _event_row(event_id: str, now: datetime) -> dict[str, object]:
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
