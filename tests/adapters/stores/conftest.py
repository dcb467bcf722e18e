"""Fills a store with rows of the events pack for the contract suites."""

from datetime import UTC, datetime

import pytest

from tidings.packs.events import repository as events
from tidings.packs.events.event import Event, EventStatus
from tidings.ports.store import Store, Transaction
from tidings.testing.contracts.audiences_contract import Populate, Population

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def populate() -> Populate:
    async def add(_store: Store, tx: Transaction, population: Population) -> None:
        created_at = {event_id: _event(event_id, host) for event_id, host in population.hosts.items()}
        for event in created_at.values():
            await events.add(tx, event)
        for (event_id, user_id), active in population.tickets.items():
            await events.give_ticket(tx, event_id, user_id, NOW)
            if not active:
                await events.return_ticket(tx, event_id, user_id, NOW)
        for event_id, user_id in population.favourites:
            await events.add_favourite(tx, created_at[event_id], user_id, NOW)

    return add


def _event(event_id: str, host: str) -> Event:
    return Event(
        id=event_id,
        title="Jazz night",
        description="",
        start_date=NOW,
        end_date=None,
        venue=None,
        address=None,
        city=None,
        host_id=host,
        status=EventStatus.ACTIVE,
        first_published_at=None,
        version=1,
        created_at=NOW,
        updated_at=NOW,
    )
