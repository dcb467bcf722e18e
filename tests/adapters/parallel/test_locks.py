"""Locks of users: an erasure waits for what is being stored about its user, and what comes later finds no user."""

import asyncio

from tests.support.asgi_client import Client

from tidings.model.preference import Preference
from tidings.model.user import User
from tidings.observability.personal_data import erase_user


async def test_an_erasure_waits_for_a_transaction_that_stores_something_about_the_user(call: Client) -> None:
    store, packs = call.runtime.store, call.runtime.packs
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana")], call.clock.now())

    async def erase() -> bool:
        async with store.transaction() as tx:
            return await erase_user(store, packs, {}, tx, "ana")

    async with store.transaction() as tx:
        assert await store.users.get(tx, "ana", lock=True) is not None
        erasing = asyncio.create_task(erase())
        done, _ = await asyncio.wait([erasing], timeout=0.2)
        assert done == set(), "the erasure waits"
        await store.users.set_preferences(tx, "ana", [Preference("MESSAGE", "webpush", True)])
    assert await erasing
    async with store.read_snapshot() as tx:
        assert await store.users.get_preferences(tx, "ana") == []


async def test_what_is_stored_after_an_erasure_began_finds_no_user(call: Client) -> None:
    store, packs = call.runtime.store, call.runtime.packs
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana"), User("ben")], call.clock.now())

    async def find_missing() -> list[str]:
        async with store.transaction() as tx:
            return list(await store.users.missing_ids(tx, ["ana", "ben"], lock=True))

    async with store.transaction() as tx:
        assert await erase_user(store, packs, {}, tx, "ana")
        finding = asyncio.create_task(find_missing())
        done, _ = await asyncio.wait([finding], timeout=0.2)
        assert done == set(), "the look-up waits"
    assert await finding == ["ana"]


async def test_a_change_of_a_profile_does_not_wait_for_what_is_stored_about_the_user(call: Client) -> None:
    store = call.runtime.store
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana")], call.clock.now())
    async with store.transaction() as tx:
        await store.users.get(tx, "ana", lock=True)
        async with asyncio.timeout(5):
            assert (await call("PUT", "/api/users/ana", json={"city": "Basel"})).status == 200
