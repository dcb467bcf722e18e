"""Suite for `ports.store.IdempotencyKeys`: the first response is stored and returned, singly and in groups."""

from datetime import timedelta

from tidings.ports.store import IdempotentRequest, Store, StoredResponse, Transaction
from tidings.testing.contracts.samples import NOW, run_concurrently


class IdempotencyContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_an_idempotency_key_gives_its_first_answer(self, store: Store) -> None:
        async with store.transaction() as tx:
            assert await self._reserve(store, tx) is None
            assert await self._reserve(store, tx) == StoredResponse("digest", None, b"")
            await store.idempotency_keys.complete(tx, caller="ana", key="1", status=202, body=b'{"id": 1}')
            assert await self._reserve(store, tx, digest="other") == StoredResponse("digest", 202, b'{"id": 1}')
            assert await self._reserve(store, tx, caller="ben") is None

    async def test_old_idempotency_keys_are_purged(self, store: Store) -> None:
        async with store.transaction() as tx:
            await self._reserve(store, tx)
            assert await store.idempotency_keys.purge(tx, NOW) == 0
            assert await store.idempotency_keys.purge(tx, NOW + timedelta(seconds=1)) == 1
            assert await self._reserve(store, tx) is None

    async def test_many_keys_give_their_first_answers_in_the_order_asked(self, store: Store) -> None:
        requests = [IdempotentRequest("ana", key, f"digest {key}") for key in ("z", "é", 'a"b', "b")]
        async with store.transaction() as tx:
            await self._reserve(store, tx, key="b", digest="before")
            assert await store.idempotency_keys.reserve_many(tx, requests, NOW) == [
                None,
                None,
                None,
                StoredResponse("before", None, b""),
            ]
            await store.idempotency_keys.complete_many(
                tx, [(one, 200 + place, bytes([place, 255])) for place, one in enumerate(requests[:3])]
            )
            assert await store.idempotency_keys.reserve_many(tx, [*requests[1::-1], requests[3]], NOW) == [
                StoredResponse("digest é", 201, b"\x01\xff"),
                StoredResponse("digest z", 200, b"\x00\xff"),
                StoredResponse("before", None, b""),
            ]

    async def test_the_same_key_of_two_callers_is_two_keys(self, store: Store) -> None:
        requests = [IdempotentRequest(caller, "1", caller) for caller in ("ben", "ana")]
        async with store.transaction() as tx:
            assert await store.idempotency_keys.reserve_many(tx, requests, NOW) == [None, None]
            await store.idempotency_keys.complete_many(tx, [(requests[0], 202, b"ben's")])
            assert await store.idempotency_keys.reserve_many(tx, requests, NOW) == [
                StoredResponse("ben", 202, b"ben's"),
                StoredResponse("ana", None, b""),
            ]

    async def test_none_is_a_group_too(self, store: Store) -> None:
        async with store.transaction() as tx:
            assert await store.idempotency_keys.reserve_many(tx, [], NOW) == []
            await store.idempotency_keys.complete_many(tx, [])

    async def test_a_key_that_comes_twice_in_a_group_is_claimed_once(self, store: Store) -> None:
        requests = [IdempotentRequest("ana", "1", digest) for digest in ("first", "second")]
        async with store.transaction() as tx:
            assert await store.idempotency_keys.reserve_many(tx, requests, NOW) == [
                None,
                StoredResponse("first", None, b""),
            ]

    async def test_of_groups_that_race_for_the_same_keys_each_key_goes_to_one(self, store: Store) -> None:
        # enough keys that the statements of the groups overlap
        keys = [f"key-{number}" for number in range(1500)]

        async def accept(turn: int) -> list[str]:
            """Reserve every key, forwards or backwards, and store a response for those that were free."""
            requests = [IdempotentRequest("ana", key, "digest") for key in (keys[::-1] if turn % 2 else keys)]
            async with store.transaction() as tx:
                first = await store.idempotency_keys.reserve_many(tx, requests, NOW)
                mine = [one for one, answer in zip(requests, first, strict=True) if answer is None]
                await store.idempotency_keys.complete_many(tx, [(one, 202, b"%d" % turn) for one in mine])
            # the second caller gets the response, never "still running"
            assert all(answer is None or answer.status == 202 for answer in first)
            return [one.key for one in mine]

        taken = await run_concurrently(store, *(accept(turn) for turn in range(8)))
        assert sorted(key for got in taken for key in got) == sorted(keys)

    async def test_what_a_group_reserved_is_free_again_when_it_fails(self, store: Store) -> None:
        requests = [IdempotentRequest("ana", key, "digest") for key in ("1", "2")]
        try:
            async with store.transaction() as tx:
                await store.idempotency_keys.reserve_many(tx, requests, NOW)
                raise _Failed
        except _Failed:
            async with store.transaction() as tx:
                assert await store.idempotency_keys.reserve_many(tx, requests, NOW) == [None, None]

    async def _reserve(
        self, store: Store, tx: Transaction, *, caller: str = "ana", key: str = "1", digest: str = "digest"
    ) -> StoredResponse | None:
        return await store.idempotency_keys.reserve(tx, caller=caller, key=key, request_digest=digest, now=NOW)


class _Failed(Exception):
    """Raised to roll back a group."""
