"""The benchmark's audience: an event, users with tickets, one simulated device each."""

import sys
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import insert

from tidings.demo import devices
from tidings.model.ids import new_id
from tidings.model.user import User
from tidings.packs.events.tables import events, tickets
from tidings.runtime import Runtime
from tidings.settings import Settings
from tidings.stores.connection import of

_PAGE = 2_000
#: a realistic spread: words are rendered once per locale and time zone
_PLACES = (("en", "Europe/London"), ("de", "Europe/Berlin"), ("fr", "Europe/Paris"), ("es", "America/Mexico_City"))


async def prepare(data_dir: Path, *, recipients: int, origin: str) -> str:
    """Fill a new database and return the id of the event everybody has a ticket for."""
    settings = Settings(data_dir=data_dir, push_extra_hosts=(urlsplit(origin).netloc,))
    console = Console(file=sys.stderr)
    async with Runtime.open(settings) as runtime:
        now = runtime.clock.now()
        event_id = new_id(now)
        async with runtime.store.begin() as tx:
            await of(tx).execute(insert(events), _event(event_id, now))
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            bar = progress.add_task(f"Making {recipients} recipients", total=recipients)
            for start in range(0, recipients, _PAGE):
                numbers = range(start, min(start + _PAGE, recipients))
                await _add(runtime, event_id, numbers, origin, now)
                progress.advance(bar, len(numbers))
    return event_id


async def add_users(runtime: Runtime, count: int) -> list[str]:
    """Add users without devices and return their ids."""
    ids = [f"u{number:07}" for number in range(count)]
    for start in range(0, count, _PAGE):
        numbers = range(start, min(start + _PAGE, count))
        people = [
            User(ids[number], locale=locale, timezone=zone)
            for number, (locale, zone) in zip(numbers, _places(numbers), strict=True)
        ]
        async with runtime.store.begin() as tx:
            await runtime.store.users.upsert(tx, people, runtime.clock.now())
    return ids


async def _add(runtime: Runtime, event_id: str, numbers: range, origin: str, now: datetime) -> None:
    ids = [f"u{number:07}" for number in numbers]
    people = [
        User(user_id, locale=locale, timezone=zone)
        for user_id, (locale, zone) in zip(ids, _places(numbers), strict=True)
    ]
    held = [
        {"event_id": event_id, "user_id": user_id, "status": "active", "created_at": now, "returned_at": None}
        for user_id in ids
    ]
    phones = [devices.Simulated(user_id, f"{user_id}-1", "Phone") for user_id in ids]
    async with runtime.store.begin() as tx:
        await runtime.store.users.upsert(tx, people, now)
        await of(tx).execute(insert(tickets), held)
        await devices.add(runtime, tx, phones, origin=origin, now=now)


def _places(numbers: range) -> list[tuple[str, str]]:
    return [_PLACES[number % len(_PLACES)] for number in numbers]


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
