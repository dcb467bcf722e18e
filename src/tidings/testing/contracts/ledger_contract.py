"""Suite for the small ports of the store: VAPID and API keys, categories, epoch, transactions."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from tidings.errors import Invalid
from tidings.model.ids import new_id
from tidings.model.subscription import VapidKey
from tidings.model.template import Category
from tidings.model.user import User
from tidings.ports.store import ApiKey, Store, Transaction
from tidings.testing.contracts.samples import NOW

LATER = NOW + timedelta(hours=25)


class KeysContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_vapid_keys_read_back_newest_first(self, store: Store) -> None:
        old = VapidKey(new_id(NOW), b"o" * 32, b"\x04" + b"o" * 64, NOW, retired_at=LATER)
        new = VapidKey(new_id(NOW), b"n" * 32, b"\x04" + b"n" * 64, LATER)
        async with store.begin() as tx:
            await store.vapid_keys.add(tx, old)
            await store.vapid_keys.add(tx, new)
            assert await store.vapid_keys.all(tx) == [new, old]

    async def test_api_keys_are_found_by_digest_and_revoked_once(self, store: Store) -> None:
        key = ApiKey(new_id(NOW), "d" * 64, "tdg_abc", "the shop", frozenset({"notify", "read"}), NOW)
        async with store.begin() as tx:
            await store.api_keys.add(tx, key)
            assert await store.api_keys.find(tx, "d" * 64) == key
            assert await store.api_keys.find(tx, "e" * 64) is None
            assert await store.api_keys.revoke(tx, key.id, LATER)
            assert not await store.api_keys.revoke(tx, key.id, LATER)
            assert not await store.api_keys.revoke(tx, new_id(NOW), LATER)
            [listed] = await store.api_keys.all(tx)
        assert listed.revoked_at == LATER

    async def test_categories_may_be_declared_again(self, store: Store) -> None:
        async with store.begin() as tx:
            await store.sync_categories(tx, [Category("NEWS", "News")])
            await store.sync_categories(tx, [Category("NEWS", "All news", opt_in=True), Category("ORDERS", "Orders")])
            await store.sync_categories(tx, [])

    async def test_the_epoch_is_the_last_one_set(self, store: Store) -> None:
        async with store.begin() as tx:
            assert await store.epoch(tx) is None
            for epoch in ("one", "two"):
                await store.set_epoch(tx, epoch)
            assert await store.epoch(tx) == "two"


class TransactionsContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_a_block_that_raises_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(RuntimeError, match="after the write"):
            async with store.begin() as tx:
                await self._fail_after(self._add("ana", store)(tx))
        assert await self._known(store) == []

    async def test_a_savepoint_undoes_only_what_is_inside_it(self, store: Store) -> None:
        async with store.begin() as tx:
            await self._add("ana", store)(tx)
            with pytest.raises(RuntimeError, match="after the write"):
                async with store.savepoint(tx):
                    await self._fail_after(self._add("ben", store)(tx))
            async with store.savepoint(tx):
                await self._add("cleo", store)(tx)
        assert await self._known(store) == ["ana", "cleo"]

    async def test_a_reader_sees_nothing_before_the_commit(self, store: Store) -> None:
        async with store.begin() as tx:
            await self._add("ana", store)(tx)
            assert await self._known(store) == []
        assert await self._known(store) == ["ana"]

    async def test_a_transaction_knows_that_it_has_ended(self, store: Store) -> None:
        async with store.begin() as tx:
            assert not tx.closed
        assert tx.closed

    async def test_a_connection_of_an_unknown_kind_is_refused(self, store: Store) -> None:
        with pytest.raises(Invalid, match="conn"):
            await store.join(object())

    async def test_statements_are_counted(self, store: Store) -> None:
        before = store.statements
        await store.ping()
        assert store.statements == before + 1

    async def _known(self, store: Store) -> list[str]:
        async with store.read() as tx:
            return [user.id for user in await store.users.page(tx, after=None, limit=9)]

    async def _fail_after(self, work: Awaitable[None]) -> None:
        await work
        raise RuntimeError("after the write")

    def _add(self, user_id: str, store: Store) -> Callable[[Transaction], Awaitable[None]]:
        async def add(tx: Transaction) -> None:
            await store.users.upsert(tx, [User(user_id)], NOW)

        return add
