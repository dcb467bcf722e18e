"""Suites for VAPID keys, API keys, the queue epoch and transactions of the store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest

from tidings.errors import ValidationFailed
from tidings.model.ids import new_id
from tidings.model.subscription import VapidKey
from tidings.model.user import User
from tidings.ports.store import ApiKey, Store, Transaction
from tidings.testing.contracts.samples import NOW

LATER = NOW + timedelta(hours=25)


class KeysContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_vapid_keys_read_back_newest_first(self, store: Store) -> None:
        old = VapidKey(new_id(NOW), b"o" * 32, b"\x04" + b"o" * 64, NOW, retired_at=LATER)
        new = VapidKey(new_id(NOW), b"n" * 32, b"\x04" + b"n" * 64, LATER)
        async with store.transaction() as tx:
            await store.vapid_keys.add(tx, old)
            await store.vapid_keys.add(tx, new)
            assert await store.vapid_keys.list_all(tx) == [new, old]

    async def test_api_keys_are_found_by_digest_and_revoked_once(self, store: Store) -> None:
        key = ApiKey(new_id(NOW), "d" * 64, "tdg_abc", "the shop", frozenset({"notify", "read"}), NOW)
        async with store.transaction() as tx:
            await store.api_keys.add(tx, key)
            assert await store.api_keys.find(tx, "d" * 64) == key
            assert await store.api_keys.find(tx, "e" * 64) is None
            assert await store.api_keys.revoke(tx, key.id, LATER)
            assert not await store.api_keys.revoke(tx, key.id, LATER)
            assert not await store.api_keys.revoke(tx, new_id(NOW), LATER)
            [listed] = await store.api_keys.list_all(tx)
        assert listed.revoked_at == LATER

    async def test_whoever_waits_for_the_lock_on_vapid_keys_sees_what_was_added_under_it(self, store: Store) -> None:
        key = VapidKey(new_id(NOW), b"k" * 32, b"\x04" + b"k" * 64, NOW)
        asking = asyncio.Event()

        async def looks_under_the_lock() -> Sequence[VapidKey]:
            asking.set()
            async with store.transaction() as tx:
                await store.vapid_keys.lock(tx)
                return await store.vapid_keys.list_all(tx)

        async with store.transaction() as tx:
            await store.vapid_keys.lock(tx)
            other = asyncio.create_task(looks_under_the_lock())
            await asking.wait()
            await store.vapid_keys.add(tx, key)
        assert await other == [key]

    async def test_the_epoch_is_the_last_one_set(self, store: Store) -> None:
        async with store.transaction() as tx:
            assert await store.get_queue_instance_id(tx) is None
            for epoch in ("one", "two"):
                await store.set_queue_instance_id(tx, epoch)
            assert await store.get_queue_instance_id(tx) == "two"


class TransactionsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_block_that_raises_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(RuntimeError, match="after the write"):
            async with store.transaction() as tx:
                await self._fail_after(self._build_user_insert("ana", store)(tx))
        assert await self._list_user_ids(store) == []

    async def test_a_savepoint_undoes_only_what_is_inside_it(self, store: Store) -> None:
        async with store.transaction() as tx:
            await self._build_user_insert("ana", store)(tx)
            with pytest.raises(RuntimeError, match="after the write"):
                async with store.savepoint(tx):
                    await self._fail_after(self._build_user_insert("ben", store)(tx))
            async with store.savepoint(tx):
                await self._build_user_insert("cleo", store)(tx)
        assert await self._list_user_ids(store) == ["ana", "cleo"]

    async def test_a_reader_sees_nothing_before_the_commit(self, store: Store) -> None:
        async with store.transaction() as tx:
            await self._build_user_insert("ana", store)(tx)
            assert await self._list_user_ids(store) == []
        assert await self._list_user_ids(store) == ["ana"]

    async def test_a_transaction_knows_that_it_has_ended(self, store: Store) -> None:
        async with store.transaction() as tx:
            assert not tx.is_closed
        assert tx.is_closed

    async def test_a_connection_of_an_unknown_kind_is_refused(self, store: Store) -> None:
        with pytest.raises(ValidationFailed, match="conn"):
            await store.adopt(object())

    async def test_statements_are_counted(self, store: Store) -> None:
        before = store.statement_count
        await store.ping()
        assert store.statement_count == before + 1

    async def _list_user_ids(self, store: Store) -> list[str]:
        async with store.read_snapshot() as tx:
            return [user.id for user in await store.users.page(tx, after=None, limit=9)]

    async def _fail_after(self, work: Awaitable[None]) -> None:
        await work
        raise RuntimeError("after the write")

    def _build_user_insert(self, user_id: str, store: Store) -> Callable[[Transaction], Awaitable[None]]:
        async def add(tx: Transaction) -> None:
            await store.users.upsert(tx, [User(user_id)], NOW)

        return add
