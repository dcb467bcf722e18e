"""Suite for `ports.store.IdempotencyKeys`: the first answer holds, for one request and for many together."""

from datetime import timedelta

from tidings.ports.store import FirstAnswer, KeyedRequest, Store, Transaction
from tidings.testing.contracts.samples import NOW, at_once


class IdempotencyContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_an_idempotency_key_gives_its_first_answer(self, store: Store) -> None:
        async with store.begin() as tx:
            assert await self._reserve(store, tx) is None
            assert await self._reserve(store, tx) == FirstAnswer("digest", None, b"")
            await store.idempotency.answer(tx, caller="ana", key="1", status=202, body=b'{"id": 1}')
            assert await self._reserve(store, tx, digest="other") == FirstAnswer("digest", 202, b'{"id": 1}')
            assert await self._reserve(store, tx, caller="ben") is None

    async def test_old_idempotency_keys_are_purged(self, store: Store) -> None:
        async with store.begin() as tx:
            await self._reserve(store, tx)
            assert await store.idempotency.purge(tx, NOW) == 0
            assert await store.idempotency.purge(tx, NOW + timedelta(seconds=1)) == 1
            assert await self._reserve(store, tx) is None

    async def test_many_keys_give_their_first_answers_in_the_order_asked(self, store: Store) -> None:
        asked = [KeyedRequest("ana", key, f"digest {key}") for key in ("z", "é", 'a"b', "b")]
        async with store.begin() as tx:
            await self._reserve(store, tx, key="b", digest="before")
            assert await store.idempotency.reserve_many(tx, asked, NOW) == [
                None,
                None,
                None,
                FirstAnswer("before", None, b""),
            ]
            await store.idempotency.answer_many(
                tx, [(one, 200 + place, bytes([place, 255])) for place, one in enumerate(asked[:3])]
            )
            assert await store.idempotency.reserve_many(tx, [*asked[1::-1], asked[3]], NOW) == [
                FirstAnswer("digest é", 201, b"\x01\xff"),
                FirstAnswer("digest z", 200, b"\x00\xff"),
                FirstAnswer("before", None, b""),
            ]

    async def test_the_same_key_of_two_callers_is_two_keys(self, store: Store) -> None:
        asked = [KeyedRequest(caller, "1", caller) for caller in ("ben", "ana")]
        async with store.begin() as tx:
            assert await store.idempotency.reserve_many(tx, asked, NOW) == [None, None]
            await store.idempotency.answer_many(tx, [(asked[0], 202, b"ben's")])
            assert await store.idempotency.reserve_many(tx, asked, NOW) == [
                FirstAnswer("ben", 202, b"ben's"),
                FirstAnswer("ana", None, b""),
            ]

    async def test_none_is_a_group_too(self, store: Store) -> None:
        async with store.begin() as tx:
            assert await store.idempotency.reserve_many(tx, [], NOW) == []
            await store.idempotency.answer_many(tx, [])

    async def test_a_key_that_comes_twice_in_a_group_is_claimed_once(self, store: Store) -> None:
        asked = [KeyedRequest("ana", "1", digest) for digest in ("first", "second")]
        async with store.begin() as tx:
            assert await store.idempotency.reserve_many(tx, asked, NOW) == [None, FirstAnswer("first", None, b"")]

    async def test_of_groups_that_race_for_the_same_keys_each_key_goes_to_one(self, store: Store) -> None:
        # so many that the statements of the groups overlap
        keys = [f"key-{number}" for number in range(1500)]

        async def accept(turn: int) -> list[str]:
            """Reserve every key, forwards or backwards, and answer those that were free, as a group of requests."""
            asked = [KeyedRequest("ana", key, "digest") for key in (keys[::-1] if turn % 2 else keys)]
            async with store.begin() as tx:
                first = await store.idempotency.reserve_many(tx, asked, NOW)
                mine = [one for one, answer in zip(asked, first, strict=True) if answer is None]
                await store.idempotency.answer_many(tx, [(one, 202, b"%d" % turn) for one in mine])
            # who is second learns the answer, never that it is still running
            assert all(answer is None or answer.status == 202 for answer in first)
            return [one.key for one in mine]

        taken = await at_once(store, *(accept(turn) for turn in range(8)))
        assert sorted(key for got in taken for key in got) == sorted(keys)

    async def test_what_a_group_reserved_is_free_again_when_it_fails(self, store: Store) -> None:
        asked = [KeyedRequest("ana", key, "digest") for key in ("1", "2")]
        try:
            async with store.begin() as tx:
                await store.idempotency.reserve_many(tx, asked, NOW)
                raise _Failed
        except _Failed:
            async with store.begin() as tx:
                assert await store.idempotency.reserve_many(tx, asked, NOW) == [None, None]

    async def _reserve(
        self, store: Store, tx: Transaction, *, caller: str = "ana", key: str = "1", digest: str = "digest"
    ) -> FirstAnswer | None:
        return await store.idempotency.reserve(tx, caller=caller, key=key, request_digest=digest, now=NOW)


class _Failed(Exception):
    """What ends a group."""
