"""Suite for `ports.operations.UserLimits`: a sliding window per user, correct under concurrency."""

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


async def store_users(store: Store, *user_ids: str) -> list[str]:
    """Store users and return their ids."""
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User(user_id) for user_id in user_ids], NOW)
    return list(user_ids)


async def consume(
    store: Store, user_ids: Collection[str], *, limit: int = 2, now: datetime = NOW, scope: str = ""
) -> set[str]:
    """Count one notification per user in a separate transaction; return the users below the limit."""
    async with store.transaction() as tx:
        return await store.user_rate_limits.consume(tx, scope, user_ids, limit=limit, window=HOUR, now=now)


class LimitsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_each_user_gets_as_many_as_the_limit_and_no_more(self, store: Store) -> None:
        ana, ben = await store_users(store, "ana", "ben")
        assert await consume(store, [ana]) == {"ana"}
        assert await consume(store, [ana, ben]) == {"ana", "ben"}
        assert await consume(store, [ana, ben]) == {"ben"}
        assert await consume(store, [ana, ben]) == set()

    async def test_the_window_slides(self, store: Store) -> None:
        await store_users(store, "ana")
        for minutes in (0, 40):
            assert await consume(store, ["ana"], now=NOW + minutes * MINUTE)
        assert not await consume(store, ["ana"], now=NOW + HOUR - A_MOMENT)
        assert await consume(store, ["ana"], now=NOW + HOUR)
        assert not await consume(store, ["ana"], now=NOW + 99 * MINUTE)
        assert await consume(store, ["ana"], now=NOW + 100 * MINUTE)

    async def test_what_is_held_back_does_not_count(self, store: Store) -> None:
        await store_users(store, "ana")
        assert await consume(store, ["ana"], limit=1)
        for minutes in range(1, 60):
            assert not await consume(store, ["ana"], limit=1, now=NOW + minutes * MINUTE)
        assert await consume(store, ["ana"], limit=1, now=NOW + HOUR)

    async def test_scopes_are_counted_apart(self, store: Store) -> None:
        await store_users(store, "ana")
        for scope in ("", "NEWS", "OFFERS"):
            assert await consume(store, ["ana"], limit=1, scope=scope)
            assert not await consume(store, ["ana"], limit=1, scope=scope)

    async def test_users_who_do_not_exist_do_not_fail_the_others(self, store: Store) -> None:
        await store_users(store, "ana", "cleo")
        assert await consume(store, ["ana", "nobody", "cleo"]) == {"ana", "cleo"}

    async def test_nobody_and_no_room_are_no_mistake(self, store: Store) -> None:
        await store_users(store, "ana")
        assert await consume(store, []) == set()
        assert await consume(store, ["ana"], limit=0) == set()
        assert await consume(store, ["ana"], limit=1) == {"ana"}

    async def test_a_user_named_twice_is_counted_once(self, store: Store) -> None:
        await store_users(store, "ana")
        assert await consume(store, ["ana", "ana"]) == {"ana"}
        assert await consume(store, ["ana"]) == {"ana"}
        assert await consume(store, ["ana"]) == set()

    async def test_a_limit_that_was_lowered_holds_at_once(self, store: Store) -> None:
        await store_users(store, "ana")
        for _ in range(5):
            assert await consume(store, ["ana"], limit=5)
        assert not await consume(store, ["ana"], limit=2, now=NOW + MINUTE)
        assert await consume(store, ["ana"], limit=6, now=NOW + MINUTE)

    async def test_what_is_rolled_back_was_not_counted(self, store: Store) -> None:
        await store_users(store, "ana")
        with pytest.raises(RuntimeError, match="after the write"):
            await self._consume_and_fail(store, "ana")
        assert await consume(store, ["ana"], limit=1) == {"ana"}

    async def test_a_page_of_users_is_one_statement(self, store: Store) -> None:
        people = await store_users(store, *(f"user-{number:04}" for number in range(1000)))
        for expected in (set(people), set(people), set[str]()):
            async with store.transaction() as tx:
                before = store.statement_count
                assert await store.user_rate_limits.consume(tx, "", people, limit=2, window=HOUR, now=NOW) == expected
                assert store.statement_count - before == 1

    @pytest.mark.parametrize("seed", range(3))
    async def test_no_window_ever_holds_more_than_the_limit_and_none_is_wasted(self, store: Store, seed: int) -> None:
        await store_users(store, "ana")
        now, counted, limit = NOW, list[datetime](), 4
        random = Random(seed)  # noqa: S311  # the same again each time
        # instants are stored rounded up to the millisecond, so the last two milliseconds of a window are not checked
        unsure = timedelta(milliseconds=2)
        for _ in range(60):
            now += timedelta(microseconds=random.choice((1, 400, 2_000_000, 900_000_000, 2_400_000_000)))
            allowed = await consume(store, ["ana"], limit=limit, now=now)
            if allowed:
                assert sum(one > now - HOUR for one in counted) < limit
                counted.append(now)
            else:
                assert sum(one > now - HOUR - unsure for one in counted) >= limit
        assert len(counted) > limit

    async def test_parallel_transactions_never_count_more_than_the_limit(self, store: Store) -> None:
        people = await store_users(store, *(f"user-{number:02}" for number in range(30)))

        async def one(number: int) -> set[str]:
            # in different orders, and with slightly different clocks
            return await consume(store, people[number:] + people[:number], limit=7, now=NOW - number * A_MOMENT)

        counted = Counter(user_id for page in await asyncio.gather(*map(one, range(20))) for user_id in page)
        assert counted == dict.fromkeys(people, 7)

    async def test_another_clock_a_little_behind_finds_no_gap(self, store: Store) -> None:
        await store_users(store, "ana")
        for at in (NOW, NOW, NOW + HOUR):
            assert await consume(store, ["ana"], now=at)
        # the first two have just left the window; one moment earlier they still counted
        assert await consume(store, ["ana"], now=NOW + HOUR - A_MOMENT)
        assert not await consume(store, ["ana"], now=NOW + HOUR - A_MOMENT)
        assert not await consume(store, ["ana"], now=NOW + 2 * HOUR - A_MOMENT)
        assert await consume(store, ["ana"], now=NOW + 2 * HOUR)

    async def test_a_clock_that_was_far_ahead_does_not_silence_anybody(self, store: Store) -> None:
        await store_users(store, "ana")
        for _ in range(2):
            assert await consume(store, ["ana"], now=NOW + timedelta(days=1))
        assert await consume(store, ["ana"])
        assert await consume(store, ["ana"])
        assert not await consume(store, ["ana"])

    async def test_an_erasure_under_way_does_not_fail_the_page(self, store: Store) -> None:
        await store_users(store, "ana", "ben")
        async with store.transaction() as tx:
            await store.users.erase(tx, "ana")
            counting = asyncio.create_task(consume(store, ["ana", "ben"]))
            assert await asyncio.wait({counting}, timeout=0.1) == (set(), {counting}), "it waits for the erasure"
        assert await counting == {"ben"}

    async def test_an_erased_user_leaves_nothing_behind(self, store: Store) -> None:
        await store_users(store, "ana")
        assert await consume(store, ["ana"], limit=1)
        async with store.transaction() as tx:
            await store.users.erase(tx, "ana")
        await store_users(store, "ana")
        assert await consume(store, ["ana"], limit=1)

    async def test_c35_what_is_never_limited_counts_all_the_same(self, store: Store) -> None:
        await store_users(store, "ana")
        for minutes in range(6):
            async with store.transaction() as tx:
                counted = await store.user_rate_limits.consume(
                    tx, "", ["ana", "nobody"], limit=2, window=HOUR, now=NOW + minutes * MINUTE, is_enforced=False
                )
            assert counted == {"ana"}
        assert not await consume(store, ["ana"], now=NOW + 6 * MINUTE)
        async with store.read_snapshot() as tx:
            kept = await store.user_rate_limits.list_times(tx, "", ["ana"], window=HOUR, now=NOW + 6 * MINUTE)
        assert kept == {"ana": [NOW + 4 * MINUTE, NOW + 5 * MINUTE]}, "no more than can matter"
        assert await consume(store, ["ana"], now=NOW + HOUR + 4 * MINUTE)
        assert not await consume(store, ["ana"], now=NOW + HOUR + 4 * MINUTE)

    async def test_c34_what_is_taken_back_does_not_count(self, store: Store) -> None:
        await store_users(store, "ana", "ben")
        assert await consume(store, ["ana", "ben"], limit=1)
        async with store.transaction() as tx:
            later = NOW + MINUTE
            counters = store.user_rate_limits
            assert await counters.consume(tx, "", ["ana", "ben"], limit=2, window=HOUR, now=later) == {"ana", "ben"}
            await counters.release(tx, "", ["ana", "nobody"])
            await counters.release(tx, "", [])
            assert await counters.list_times(tx, "", ["ana", "ben"], window=HOUR, now=later) == {
                "ana": [NOW],
                "ben": [NOW, later],
            }
        assert await consume(store, ["ana", "ben"], now=NOW + 2 * MINUTE) == {"ana"}

    async def test_a_counter_with_a_longer_window_is_kept_for_it(self, store: Store) -> None:
        await store_users(store, "ana")
        async with store.transaction() as tx:
            await store.user_rate_limits.consume(tx, "cap:day", ["ana"], limit=1, window=24 * HOUR, now=NOW)
            assert await store.user_rate_limits.purge(tx, NOW + 23 * HOUR) == 0
            assert await store.user_rate_limits.purge(tx, NOW + 24 * HOUR) == 1

    async def test_what_was_last_counted_long_ago_is_purged(self, store: Store) -> None:
        await store_users(store, "ana", "ben")
        await consume(store, ["ana", "ben"], limit=1)
        await consume(store, ["ben"], now=NOW + 2 * HOUR, limit=1)
        async with store.transaction() as tx:
            assert await store.user_rate_limits.purge(tx, NOW + HOUR - A_MOMENT) == 0
            assert await store.user_rate_limits.purge(tx, NOW + HOUR) == 1
            assert await store.user_rate_limits.purge(tx, NOW + HOUR) == 0
        assert await consume(store, ["ana", "ben"], limit=1, now=NOW + 2 * HOUR) == {"ana"}

    async def _consume_and_fail(self, store: Store, user_id: str) -> None:
        async with store.transaction() as tx:
            assert await store.user_rate_limits.consume(tx, "", [user_id], limit=1, window=HOUR, now=NOW) == {user_id}
            raise RuntimeError("after the write")
