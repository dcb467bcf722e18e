"""Seeding the demo: in bulk, a few statements for thousands of rows, and nothing at all on the next start."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Table

from tidings.demo import devices, people
from tidings.demo.events import EVENTS, row
from tidings.packs.events.tables import events, tickets
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.schema import preferences
from tidings.stores.upserts import upsert

if TYPE_CHECKING:
    from tidings.runtime import Runtime

#: users written per transaction: short enough for the workers to get their turn
_PAGE = 500

Rows = Sequence[Mapping[str, object]]


async def seed(runtime: Runtime) -> None:
    """Add events, users, tickets, preferences and simulated devices unless they are there.

    A start that was interrupted goes on where it stopped; what exists (a changed event, say) stays as it is.
    """
    now = runtime.clock.now()
    async with runtime.store.begin() as tx:
        await _add(tx, events, [row(event, now) for event in EVENTS])
        last = await runtime.store.users.get(tx, people.user_id(people.USERS))
    if last is not None:
        return
    # the demo's own push service was added last, see `services`
    origin = f"http://{runtime.settings.push_extra_hosts[-1]}"
    everybody = list(people.users())
    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("Making 5 000 people with tickets and devices", total=len(everybody))
        for start in range(0, len(everybody), _PAGE):
            page = everybody[start : start + _PAGE]
            numbers = range(start + 1, start + 1 + len(page))
            async with runtime.store.begin() as tx:
                await runtime.store.users.upsert(tx, page, now)
                await _add(tx, tickets, list(_tickets(numbers, now)))
                await _add(tx, preferences, list(_preferences(numbers)))
                await devices.add(runtime, tx, list(_devices(numbers)), origin=origin, now=now)
            progress.advance(bar, len(page))


def _tickets(numbers: Sequence[int], now: datetime) -> Iterator[Mapping[str, object]]:
    for number in numbers:
        for index in range(3):
            if (status := people.holds_ticket(number, index)) is not None:
                yield {
                    "event_id": EVENTS[index].id,
                    "user_id": people.user_id(number),
                    "status": status,
                    "created_at": now,
                    "returned_at": None if status == "active" else now,
                }


def _preferences(numbers: Sequence[int]) -> Iterator[Mapping[str, object]]:
    for number in numbers:
        if people.declines_time_changes(number):
            user_id = people.user_id(number)
            yield {"user_id": user_id, "category": "EVENT_TIME_CHANGE", "channel": "webpush", "enabled": False}


def _devices(numbers: Sequence[int]) -> Iterator[devices.Simulated]:
    for number in numbers:
        user_id = people.user_id(number)
        for index, name in enumerate(people.devices(number), start=1):
            yield devices.Simulated(user_id, f"{user_id}-{index}", f"Simulated {name.lower()}")


async def _add(tx: Transaction, table: Table, rows: Rows) -> None:
    if rows:
        await of(tx).execute(upsert(tx, table).on_conflict_do_nothing(), rows)
