"""Subscriptions stored in bulk are the same as those stored one by one."""

from datetime import UTC, datetime

from msgspec import structs

from tidings.model.ids import new_id
from tidings.model.user import User
from tidings.ports.store import RegistrationResult
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import make_subscription

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_a_subscription_added_in_bulk_is_found_when_its_browser_registers(store: SqlStore) -> None:
    first = structs.replace(make_subscription("ana"), created_at=NOW)
    again = structs.replace(first, id=new_id(NOW), device="another name")
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana")], NOW)
        await store.subscriptions.add_unknown(tx, [], NOW)
        await store.subscriptions.add_unknown(tx, [first], NOW)
        await store.subscriptions.add_unknown(tx, [again], NOW)
        assert await store.subscriptions.list_by_user(tx, "ana") == [first], "the endpoint is known already"
        came, kept = await store.subscriptions.register(tx, again, replaces=None, now=NOW)
        assert (came, kept.id) == (RegistrationResult.KNOWN, first.id)
