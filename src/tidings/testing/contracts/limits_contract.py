"""Suite for `ports.operations.UserLimits`: a sliding window per user that holds whatever happens at once (M18)."""

import asyncio
from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from random import Random

import pytest

from tidings.model.user import User
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
A_MOMENT = timedelta(milliseconds=1)


async def known(store: Store, *user_ids: str) -> list[str]:
    """Store users and return their ids."""
    async with store.begin() as tx:
        await store.users.upsert(tx, [User(user_id) for user_id in user_ids], NOW)
    return list(user_ids)


async def take(
    store: Store, user_ids: Collection[str], *, limit: int = 2, now: datetime = NOW, scope: str = ""
) -> set[str]:
    """Count one notification for each in a transaction of its own."""
    async with store.begin() as tx:
        return await store.limits.take(tx, scope, user_ids, limit=limit, window=HOUR, now=now)


class LimitsContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_each_user_gets_as_many_as_the_limit_and_no_more(self, store: Store) -> None:
        ana, ben = await known(store, "ana", "ben")
        assert await take(store, [ana]) == {"ana"}
        assert await take(store, [ana, ben]) == {"ana", "ben"}
        assert await take(store, [ana, ben]) == {"ben"}
        assert await take(store, [ana, ben]) == set()

    async def test_the_window_slides(self, store: Store) -> None:
        await known(store, "ana")
        for minutes in (0, 40):
            assert await take(store, ["ana"], now=NOW + minutes * MINUTE)
        assert not await take(store, ["ana"], now=NOW + HOUR - A_MOMENT)
        assert await take(store, ["ana"], now=NOW + HOUR)
        assert not await take(store, ["ana"], now=NOW + 99 * MINUTE)
        assert await take(store, ["ana"], now=NOW + 100 * MINUTE)

    async def test_what_is_held_back_does_not_count(self, store: Store) -> None:
        await known(store, "ana")
        assert await take(store, ["ana"], limit=1)
        for minutes in range(1, 60):
            assert not await take(store, ["ana"], limit=1, now=NOW + minutes * MINUTE)
        assert await take(store, ["ana"], limit=1, now=NOW + HOUR)

    async def test_scopes_are_counted_apart(self, store: Store) -> None:
        await known(store, "ana")
        for scope in ("", "NEWS", "OFFERS"):
            assert await take(store, ["ana"], limit=1, scope=scope)
            assert not await take(store, ["ana"], limit=1, scope=scope)

    async def test_users_who_do_not_exist_do_not_fail_the_others(self, store: Store) -> None:
        await known(store, "ana", "cleo")
        assert await take(store, ["ana", "nobody", "cleo"]) == {"ana", "cleo"}

    async def test_nobody_and_no_room_are_no_mistake(self, store: Store) -> None:
        await known(store, "ana")
        assert await take(store, []) == set()
        assert await take(store, ["ana"], limit=0) == set()
        assert await take(store, ["ana"], limit=1) == {"ana"}

    async def test_a_user_named_twice_is_counted_once(self, store: Store) -> None:
        await known(store, "ana")
        assert await take(store, ["ana", "ana"]) == {"ana"}
        assert await take(store, ["ana"]) == {"ana"}
        assert await take(store, ["ana"]) == set()

    async def test_a_limit_that_was_lowered_holds_at_once(self, store: Store) -> None:
        await known(store, "ana")
        for _ in range(5):
            assert await take(store, ["ana"], limit=5)
        assert not await take(store, ["ana"], limit=2, now=NOW + MINUTE)
        assert await take(store, ["ana"], limit=6, now=NOW + MINUTE)

    async def test_what_is_rolled_back_was_not_counted(self, store: Store) -> None:
        await known(store, "ana")
        with pytest.raises(RuntimeError, match="after the write"):
            await self._take_and_fail(store, "ana")
        assert await take(store, ["ana"], limit=1) == {"ana"}

    async def test_a_page_of_users_is_one_statement(self, store: Store) -> None:
        people = await known(store, *(f"user-{number:04}" for number in range(1000)))
        for expected in (set(people), set(people), set[str]()):
            async with store.begin() as tx:
                before = store.statements
                assert await store.limits.take(tx, "", people, limit=2, window=HOUR, now=NOW) == expected
                assert store.statements - before == 1

    @pytest.mark.parametrize("seed", range(3))
    async def test_no_window_ever_holds_more_than_the_limit_and_none_is_wasted(self, store: Store, seed: int) -> None:
        await known(store, "ana")
        now, counted, limit = NOW, list[datetime](), 4
        random = Random(seed)  # noqa: S311  # the same again each time
        # an instant is kept to the millisecond and never the shorter way, so the last two of a window are not asked for
        unsure = timedelta(milliseconds=2)
        for _ in range(60):
            now += timedelta(microseconds=random.choice((1, 400, 2_000_000, 900_000_000, 2_400_000_000)))
            allowed = await take(store, ["ana"], limit=limit, now=now)
            if allowed:
                assert sum(one > now - HOUR for one in counted) < limit
                counted.append(now)
            else:
                assert sum(one > now - HOUR - unsure for one in counted) >= limit
        assert len(counted) > limit

    async def test_parallel_transactions_never_count_more_than_the_limit(self, store: Store) -> None:
        people = await known(store, *(f"user-{number:02}" for number in range(30)))

        async def one(number: int) -> set[str]:
            # in any order, and with clocks that are not quite the same
            return await take(store, people[number:] + people[:number], limit=7, now=NOW - number * A_MOMENT)

        counted = Counter(user_id for page in await asyncio.gather(*map(one, range(20))) for user_id in page)
        assert counted == dict.fromkeys(people, 7)

    async def test_another_clock_a_little_behind_finds_no_gap(self, store: Store) -> None:
        await known(store, "ana")
        for at in (NOW, NOW, NOW + HOUR):
            assert await take(store, ["ana"], now=at)
        # the first two were forgotten just now; a moment earlier they still counted
        assert await take(store, ["ana"], now=NOW + HOUR - A_MOMENT)
        assert not await take(store, ["ana"], now=NOW + HOUR - A_MOMENT)
        assert not await take(store, ["ana"], now=NOW + 2 * HOUR - A_MOMENT)
        assert await take(store, ["ana"], now=NOW + 2 * HOUR)

    async def test_a_clock_that_was_far_ahead_does_not_silence_anybody(self, store: Store) -> None:
        await known(store, "ana")
        for _ in range(2):
            assert await take(store, ["ana"], now=NOW + timedelta(days=1))
        assert await take(store, ["ana"])
        assert await take(store, ["ana"])
        assert not await take(store, ["ana"])

    async def test_an_erasure_under_way_does_not_fail_the_page(self, store: Store) -> None:
        await known(store, "ana", "ben")
        async with store.begin() as tx:
            await store.users.erase(tx, "ana")
            counting = asyncio.create_task(take(store, ["ana", "ben"]))
            assert await asyncio.wait({counting}, timeout=0.1) == (set(), {counting}), "it waits for the erasure"
        assert await counting == {"ben"}

    async def test_an_erased_user_leaves_nothing_behind(self, store: Store) -> None:
        await known(store, "ana")
        assert await take(store, ["ana"], limit=1)
        async with store.begin() as tx:
            await store.users.erase(tx, "ana")
        await known(store, "ana")
        assert await take(store, ["ana"], limit=1)

    async def test_what_was_last_counted_long_ago_is_purged(self, store: Store) -> None:
        await known(store, "ana", "ben")
        await take(store, ["ana", "ben"], limit=1)
        await take(store, ["ben"], now=NOW + 2 * HOUR, limit=1)
        async with store.begin() as tx:
            assert await store.limits.purge(tx, NOW) == 0
            assert await store.limits.purge(tx, NOW + HOUR) == 1
            assert await store.limits.purge(tx, NOW + HOUR) == 0
        assert await take(store, ["ana", "ben"], limit=1, now=NOW + 2 * HOUR) == {"ana"}

    async def _take_and_fail(self, store: Store, user_id: str) -> None:
        async with store.begin() as tx:
            assert await store.limits.take(tx, "", [user_id], limit=1, window=HOUR, now=NOW) == {user_id}
            raise RuntimeError("after the write")
