"""Seeds the demo data in bulk at the first start."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Table

from tidings.channels.webpush.settings import load_webpush_settings
from tidings.demo import devices, people
from tidings.demo.events import EVENTS, HOST_ID, event_row
from tidings.packs.events.tables import events, tickets
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import preferences
from tidings.stores.sql.upsert import upsert

if TYPE_CHECKING:
    from tidings.container import AppContainer

#: users written per transaction; small enough that workers are not blocked for long
_PAGE_SIZE = 500
#: in a preference: all channels
_ALL = ""

Rows = Sequence[Mapping[str, object]]


async def seed(runtime: AppContainer) -> None:
    """Add events, users, tickets, preferences and simulated devices that do not exist yet.

    An interrupted start is resumed. Existing rows, such as a changed event, are not modified.
    """
    now = runtime.clock.now()
    async with runtime.store.transaction() as tx:
        await _insert_missing(tx, events, [event_row(event, now) for event in EVENTS])
        if await runtime.store.users.get(tx, HOST_ID) is None:
            await runtime.store.users.upsert(tx, [people.build_host(HOST_ID)], now)
        last_user = await runtime.store.users.get(tx, people.demo_user_id(people.USER_COUNT))
    if last_user is not None:
        return
    # `run_demo_services` appends the demo's push service to the list
    origin = f"http://{load_webpush_settings(runtime.settings).extra_hosts[-1]}"
    users = list(people.build_users())
    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Creating 5 000 users with tickets and devices", total=len(users))
        for start in range(0, len(users), _PAGE_SIZE):
            page = users[start : start + _PAGE_SIZE]
            numbers = range(start + 1, start + 1 + len(page))
            async with runtime.store.transaction() as tx:
                await runtime.store.users.upsert(tx, page, now)
                await _insert_missing(tx, tickets, list(_ticket_rows(numbers, now)))
                await _insert_missing(tx, preferences, list(_preference_rows(numbers)))
                await devices.subscribe_devices(runtime, tx, list(_build_devices(numbers)), origin=origin, now=now)
            progress.advance(bar, len(page))


def _ticket_rows(numbers: Sequence[int], now: datetime) -> Iterator[Mapping[str, object]]:
    for number in numbers:
        for index in range(3):
            if (status := people.ticket_status(number, index)) is not None:
                yield {
                    "event_id": EVENTS[index].id,
                    "user_id": people.demo_user_id(number),
                    "status": status,
                    "created_at": now,
                    "returned_at": None if status == "active" else now,
                }


def _preference_rows(numbers: Sequence[int]) -> Iterator[Mapping[str, object]]:
    for number in numbers:
        if people.has_declined_time_changes(number):
            user_id = people.demo_user_id(number)
            yield {"user_id": user_id, "category": "EVENT_TIME_CHANGE", "channel": _ALL, "enabled": False}


def _build_devices(numbers: Sequence[int]) -> Iterator[devices.DemoDevice]:
    for number in numbers:
        user_id = people.demo_user_id(number)
        for index, name in enumerate(people.device_names(number), start=1):
            yield devices.DemoDevice(user_id, f"{user_id}-{index}", f"Simulated {name.lower()}")


async def _insert_missing(tx: Transaction, table: Table, rows: Rows) -> None:
    if rows:
        await connection_of(tx).execute(upsert(tx, table).on_conflict_do_nothing(), rows)
