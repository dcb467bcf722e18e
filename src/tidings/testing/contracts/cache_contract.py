"""Suites for `ports.cache.Cache`: values, expiry, invalidation by key and pattern, and sharing between processes."""

import asyncio
from datetime import timedelta

import pytest

from tidings.ports.cache import Cache
from tidings.testing.polling import eventually

LONG_TTL = timedelta(minutes=5)
SHORT_TTL = timedelta(milliseconds=200)


class CacheContract:
    """Provide a fixture `cache`: an empty cache of the adapter that holds at most `ENTRIES` values."""

    #: capacity of the fixture's cache
    ENTRIES = 300

    async def test_it_gives_back_what_it_was_given(self, cache: Cache) -> None:
        values = {"a": b"1", "empty": b"", "bytes": bytes(range(256)), "ключ with spaces": b"2"}
        await cache.set_many(values, ttl=LONG_TTL)
        assert await cache.get_many([*values, "unknown"]) == values

    async def test_it_knows_nothing_at_first(self, cache: Cache) -> None:
        assert await cache.get_many(["a", "b"]) == {}
        assert await cache.get_many([]) == {}

    async def test_the_last_value_counts(self, cache: Cache) -> None:
        await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
        assert await cache.get_many(["a"]) == {"a": b"1"}
        await cache.set_many({"b": b"3"}, ttl=LONG_TTL)
        await cache.drop(["b"])
        assert await cache.get_many(["a", "b"]) == {"a": b"1"}

    async def test_a_value_is_gone_after_its_time(self, cache: Cache) -> None:
        await cache.set_many({"short": b"1"}, ttl=SHORT_TTL)
        await cache.set_many({"long": b"1"}, ttl=LONG_TTL)

        async def only_the_long_one_is_left() -> bool:
            return list(await cache.get_many(["short", "long"])) == ["long"]

        await eventually(only_the_long_one_is_left)

    async def test_a_value_without_time_is_not_kept(self, cache: Cache) -> None:
        await cache.set_many({"a": b"1"}, ttl=timedelta())
        assert await cache.get_many(["a"]) == {}

    async def test_dropped_keys_are_gone_and_others_stay(self, cache: Cache) -> None:
        await cache.set_many({"a": b"1", "b": b"2", "c": b"3"}, ttl=LONG_TTL)
        await cache.get_many(["a", "b", "c"])
        await cache.drop(["a", "c", "unknown"])
        await cache.drop([])
        assert await cache.get_many(["a", "b", "c"]) == {"b": b"2"}

    async def test_a_value_read_before_a_drop_is_not_taken_in_after_it(self, cache: Cache) -> None:
        await cache.drop(["a"])
        await cache.drop_matching("page:*")
        await cache.set_many({"a": b"old", "page:1": b"old", "b": b"1"}, ttl=LONG_TTL)
        assert await cache.get_many(["a", "page:1", "b"]) == {"b": b"1"}

    @pytest.mark.parametrize(
        ("pattern", "left"),
        [
            ("page:*", {"city:1", "pageX1", "spage:1"}),
            ("*:1", {"page:2", "pageX1", "page:2:x"}),
            ("page:*:x", {"page:1", "page:2", "city:1", "pageX1", "spage:1"}),
            ("page:1", {"page:2", "city:1", "pageX1", "spage:1", "page:2:x"}),
            ("page", {"page:1", "page:2", "city:1", "pageX1", "spage:1", "page:2:x"}),
            ("*", set()),
        ],
    )
    async def test_a_pattern_drops_what_it_matches(self, cache: Cache, pattern: str, left: set[str]) -> None:
        keys = ["page:1", "page:2", "city:1", "pageX1", "spage:1", "page:2:x"]
        await cache.set_many(dict.fromkeys(keys, b"1"), ttl=LONG_TTL)
        await cache.get_many(keys)
        await cache.drop_matching(pattern)
        assert set(await cache.get_many(keys)) == left

    @pytest.mark.parametrize("odd", ["?", "[a]", "a.c", "a+", "(a)", "%a", "^a$", "a-z", "\\a", "a|b", "é"])
    async def test_only_the_star_means_more_than_itself(self, cache: Cache, odd: str) -> None:
        await cache.set_many({f"{odd}:1": b"1", "abc:1": b"2"}, ttl=LONG_TTL)
        await cache.drop_matching(f"{odd}:*")
        assert await cache.get_many([f"{odd}:1", "abc:1"]) == {"abc:1": b"2"}
        await cache.set_many({f"{odd}:2": b"old", "abc:2": b"3"}, ttl=LONG_TTL)
        assert await cache.get_many([f"{odd}:2", "abc:2"]) == {"abc:2": b"3"}

    async def test_it_never_holds_more_than_it_may(self, cache: Cache) -> None:
        keys = [f"k{number}" for number in range(self.ENTRIES * 2)]
        for start in range(0, len(keys), 100):
            await cache.set_many(dict.fromkeys(keys[start : start + 100], b"1"), ttl=LONG_TTL)
        held = await cache.get_many(keys)
        assert 0 < len(held) <= self.ENTRIES
        assert keys[-1] in held

    async def test_many_keys_in_one_call(self, cache: Cache) -> None:
        keys = [f"k{number}" for number in range(self.ENTRIES)]
        await cache.set_many({key: key.encode() for key in keys}, ttl=LONG_TTL)
        assert await cache.get_many(keys) == {key: key.encode() for key in keys}
        await cache.drop(keys[:-1])
        assert await cache.get_many(keys) == {keys[-1]: keys[-1].encode()}

    async def test_it_counts_hits_and_misses(self, cache: Cache) -> None:
        assert (cache.stats.hits, cache.stats.misses) == (0, 0)
        await cache.get_many(["a", "b", "c"])
        await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
        await cache.get_many(["a", "a"])
        assert (cache.stats.hits, cache.stats.misses) == (1, 3)

    async def test_many_callers_at_once(self, cache: Cache) -> None:
        async def work(name: str) -> None:
            await cache.set_many({name: name.encode()}, ttl=LONG_TTL)
            assert await cache.get_many([name]) == {name: name.encode()}
            await cache.drop([name])
            assert await cache.get_many([name]) == {}

        await asyncio.gather(*(work(f"k{number}") for number in range(40)))

    async def test_a_closed_cache_is_empty(self, cache: Cache) -> None:
        await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
        await cache.close()
        assert await cache.get_many(["a"]) == {}


class SharedCacheContract:
    """For caches shared by processes: provide fixtures `cache` and `other`, two instances of one empty cache."""

    async def test_what_one_process_learned_the_other_knows(self, cache: Cache, other: Cache) -> None:
        await cache.set_many({"a": b"1"}, ttl=LONG_TTL)
        assert await other.get_many(["a"]) == {"a": b"1"}

    async def test_a_drop_counts_in_every_process_at_once(self, cache: Cache, other: Cache) -> None:
        for number in range(30):
            keys = [f"a{number}", f"b{number}"]
            await cache.set_many(dict.fromkeys(keys, b"1"), ttl=LONG_TTL)
            # now both instances have the values in their local caches, if they have one
            assert len(await other.get_many(keys)) == len(await cache.get_many(keys)) == 2
            await cache.drop(keys[:1])
            assert keys[0] not in await cache.get_many(keys)
            await self._assert_stays_dropped(other, keys[0])
            assert await other.get_many(keys) == {keys[1]: b"1"}

    async def test_a_pattern_counts_in_every_process_at_once(self, cache: Cache, other: Cache) -> None:
        await cache.set_many({"page:1": b"1", "page:2": b"1", "city": b"1"}, ttl=LONG_TTL)
        await other.get_many(["page:1", "page:2", "city"])
        await cache.drop_matching("page:*")
        await self._assert_stays_dropped(other, "page:1")
        assert await other.get_many(["page:1", "page:2", "city"]) == {"city": b"1"}

    async def test_what_the_other_read_before_the_drop_is_not_taken_in(self, cache: Cache, other: Cache) -> None:
        await cache.drop(["a"])
        await cache.drop_matching("page:*")
        await other.set_many({"a": b"old", "page:1": b"old"}, ttl=LONG_TTL)
        assert await cache.get_many(["a", "page:1"]) == await other.get_many(["a", "page:1"]) == {}

    async def _assert_stays_dropped(self, cache: Cache, key: str) -> None:
        """Wait until the invalidation has reached the other process, then assert that the key stays dropped."""

        async def is_dropped() -> bool:
            return key not in await cache.get_many([key])

        await eventually(is_dropped, within=2.0, pause=0)
        assert await is_dropped()
