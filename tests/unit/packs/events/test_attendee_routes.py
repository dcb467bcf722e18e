"""Tickets and favourites: the audiences of an event."""

import pytest
from sqlalchemy import select

from tidings.errors import NotFound, ValidationFailed
from tidings.packs.events.audiences import AUDIENCES
from tidings.packs.events.event import EventFields
from tidings.packs.events.service import EventService
from tidings.packs.events.tables import favourites, tickets
from tidings.stores.engine.transaction import connection_of
from tidings.stores.store import SqlStore

KINDS = {kind.name: kind for kind in AUDIENCES}


async def members(store: SqlStore, kind: str, **arguments: object) -> list[str]:
    async with store.read_snapshot() as tx:
        return sorted((await connection_of(tx).scalars(KINDS[kind].members(arguments))).all())


@pytest.fixture
async def event_id(store: SqlStore, service: EventService, fields: EventFields) -> str:
    async with store.transaction() as tx:
        return (await service.create(tx, fields)).id


async def test_a_ticket_counts_until_it_is_returned_and_again_when_it_is_given_again(
    store: SqlStore, service: EventService, event_id: str
) -> None:
    async with store.transaction() as tx:
        for user in ("ana", "ben", "ana"):
            await service.give_ticket(tx, event_id, user)
    assert await members(store, "ticket_holders", eventId=event_id) == ["ana", "ben"]
    async with store.transaction() as tx:
        await service.return_ticket(tx, event_id, "ana")
    assert await members(store, "ticket_holders", eventId=event_id) == ["ben"]
    async with store.transaction() as tx:
        await service.give_ticket(tx, event_id, "ana")
    assert await members(store, "ticket_holders", eventId=event_id) == ["ana", "ben"]


async def test_a_ticket_that_is_not_active_cannot_be_returned(
    store: SqlStore, service: EventService, event_id: str
) -> None:
    async with store.transaction() as tx:
        await service.give_ticket(tx, event_id, "ana")
        await service.return_ticket(tx, event_id, "ana")
        for user in ("ana", "ben"):
            with pytest.raises(NotFound):
                await service.return_ticket(tx, event_id, user)


async def test_an_unknown_user_gets_no_ticket_and_no_favourite(
    store: SqlStore, service: EventService, event_id: str
) -> None:
    async with store.transaction() as tx:
        for give in (service.give_ticket, service.add_favourite):
            with pytest.raises(ValidationFailed) as refused:
                await give(tx, event_id, "nobody")
            assert [error.field for error in refused.value.field_errors] == ["userId"]
        assert (await connection_of(tx).execute(select(tickets))).all() == []


async def test_users_who_favourited_an_event_follow_its_host_once_each(
    store: SqlStore, service: EventService, fields: EventFields, event_id: str
) -> None:
    async with store.transaction() as tx:
        other = await service.create(tx, fields)
        for event in (event_id, other.id, event_id):
            await service.add_favourite(tx, event, "ana")
    assert await members(store, "favourited", eventId=event_id) == ["ana"]
    assert await members(store, "favourited_host", hostId="host-1") == ["ana"]


async def test_favourites_follow_an_event_to_its_new_host(
    store: SqlStore, service: EventService, event_id: str
) -> None:
    async with store.transaction() as tx:
        await service.add_favourite(tx, event_id, "ana")
        await service.update(tx, event_id, {"host_id": "host-2"})
    assert await members(store, "favourited_host", hostId="host-1") == []
    assert await members(store, "favourited_host", hostId="host-2") == ["ana"]


async def test_a_favourite_can_be_removed_once(store: SqlStore, service: EventService, event_id: str) -> None:
    async with store.transaction() as tx:
        await service.add_favourite(tx, event_id, "ana")
        await service.remove_favourite(tx, event_id, "ana")
        with pytest.raises(NotFound):
            await service.remove_favourite(tx, event_id, "ana")
    assert await members(store, "favourited", eventId=event_id) == []


async def test_erasing_a_user_deletes_tickets_and_favourites(
    store: SqlStore, service: EventService, event_id: str
) -> None:
    async with store.transaction() as tx:
        await service.give_ticket(tx, event_id, "ana")
        await service.add_favourite(tx, event_id, "ana")
        assert await store.users.erase(tx, "ana")
        left = [
            *(await connection_of(tx).execute(select(tickets))).all(),
            *(await connection_of(tx).execute(select(favourites))).all(),
        ]
    assert left == []
