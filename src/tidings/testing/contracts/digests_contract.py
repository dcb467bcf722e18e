"""Suite for `ports.digests.Digests`: one open digest per key, however many transactions collect and close at once."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from msgspec import structs

from tidings.model.delivery import SkipReason
from tidings.model.digest import (
    LEFT_OUT_ON,
    ClosedDigest,
    CollectedItem,
    Digest,
    DigestItemState,
    DigestKey,
    DigestState,
    DigestWindow,
)
from tidings.model.ids import new_id
from tidings.model.notification import DigestPart, Notification
from tidings.model.preference import Condition, Operator, Preference
from tidings.model.user import User
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW, make_notification, run_concurrently

MINUTE = timedelta(minutes=1)
LATER = NOW + 10 * MINUTE


def make_item(
    notification: Notification,
    user_id: str = "ana",
    *,
    key: str = "",
    window: DigestWindow | None = None,
    max_items: int | None = None,
    first_at_once: bool = False,
) -> CollectedItem:
    """Return an item of a digest that closes in ten minutes."""
    return CollectedItem(
        notification.id,
        DigestKey(user_id, "NEWS", "rule", key),
        "NEWS",
        notification.created_at,
        window or DigestWindow(LATER),
        max_items,
        first_at_once,
    )


async def collect(store: Store, *items: CollectedItem, now: datetime = NOW) -> Collection[str]:
    """Collect items in a transaction of their own. Returns the ids of the digests that it opened."""
    async with store.transaction() as tx:
        opened = await store.digests.open(tx, items, now)
        added = [
            CollectedItem(
                item.notification_id, item.key, item.category, item.accepted_at, item.window, digest_id=found.digest_id
            )
            for item in items
            if (found := opened.get(item.key))
        ]
        await store.digests.add_items(tx, added)
    return {found.digest_id for found in opened.values() if found.is_new}


async def close(store: Store, now: datetime = LATER, limit: int = 100) -> Sequence[ClosedDigest]:
    """Close what is due, as notifications with all items."""
    async with store.transaction() as tx:
        due = await store.digests.lock_due(tx, now, limit)
        closed = [ClosedDigest(one.id, new_id(NOW), 1, due.items[one.id]) for one in due.digests]
        await store.digests.close(tx, closed, now)
    return closed


async def list_all(store: Store, user_id: str = "ana") -> Sequence[Digest]:
    """Return the digests of a user, newest first."""
    async with store.read_snapshot() as tx:
        return await store.digests.list_page(tx, before=None, limit=100, user_id=user_id)


async def store_notifications(store: Store, count: int = 1) -> list[Notification]:
    """Store the users `ana` and `ben`, and notifications."""
    made = [make_notification() for _ in range(count)]
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
        await store.notifications.add_many(tx, made)
    return made


class DigestsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_items_of_one_key_share_a_digest(self, store: Store) -> None:
        first, second, third = await store_notifications(store, 3)
        assert len(await collect(store, make_item(first), make_item(second), make_item(first, "ben"))) == 2
        assert not await collect(store, make_item(third))
        assert await collect(store, make_item(third, "ben", key="other"))
        [digest] = await list_all(store)
        assert (digest.item_count, digest.closes_at, digest.state) == (3, LATER, DigestState.OPEN)

    async def test_c10_items_are_ordered_by_acceptance_and_id(self, store: Store) -> None:
        made = await store_notifications(store, 5)
        for notification in (made[3], made[1], made[4], made[0], made[2]):
            await collect(store, make_item(notification))
        [closed] = await close(store)
        assert [item.notification_id for item in closed.items] == sorted(one.id for one in made)

    async def test_a_user_who_does_not_exist_is_left_out(self, store: Store) -> None:
        [notification] = await store_notifications(store)
        assert len(await collect(store, make_item(notification, "nobody"), make_item(notification))) == 1

    async def test_c4_a_sliding_window_is_extended_up_to_its_maximum(self, store: Store) -> None:
        made = await store_notifications(store, 4)
        for index, notification in enumerate(made):
            now = NOW + 7 * index * MINUTE
            window = DigestWindow(now + 10 * MINUTE, NOW + 20 * MINUTE if index == 0 else now + 20 * MINUTE)
            await collect(store, make_item(notification, window=window), now=now)
            [digest] = await list_all(store)
            assert digest.closes_at == min(now + 10 * MINUTE, NOW + 20 * MINUTE)

    async def test_c6_it_is_due_at_once_when_it_has_enough_items(self, store: Store) -> None:
        made = await store_notifications(store, 3)
        await collect(store, *(make_item(one, max_items=3) for one in made[:2]))
        assert not await close(store, NOW)
        await collect(store, make_item(made[2], max_items=3))
        [closed] = await close(store, NOW)
        assert len(closed.items) == 3
        await collect(store, *(make_item(one, "ben", max_items=3) for one in made))
        assert await close(store, NOW)

    async def test_c6_what_arrives_until_it_closes_is_in_it_too(self, store: Store) -> None:
        made = await store_notifications(store, 6)
        await collect(store, *(make_item(one, max_items=3) for one in made[:4]))
        assert not await collect(store, make_item(made[4], max_items=3))
        [closed] = await close(store, NOW)
        assert len(closed.items) == 5
        assert await collect(store, make_item(made[5], max_items=3)), "the next one opens a new digest"
        assert not await close(store, NOW)

    async def test_c5_the_first_is_not_counted(self, store: Store) -> None:
        made = await store_notifications(store, 3)
        async with store.transaction() as tx:
            await store.digests.open(tx, [make_item(made[0], first_at_once=True, max_items=2)], NOW)
        await collect(store, make_item(made[1], first_at_once=True, max_items=2))
        [digest] = await list_all(store)
        assert digest.item_count == 1
        assert not await close(store, NOW)
        await collect(store, make_item(made[2], first_at_once=True, max_items=2))
        assert await close(store, NOW)

    async def test_a_closed_digest_collects_no_more(self, store: Store) -> None:
        first, second = await store_notifications(store, 2)
        await collect(store, make_item(first))
        [closed] = await close(store)
        assert await collect(store, make_item(second))
        stored = {one.id: one for one in await list_all(store)}
        assert stored[closed.digest_id].notification_id == closed.notification_id
        assert sorted(one.state for one in stored.values()) == [DigestState.CLOSED, DigestState.OPEN]
        async with store.read_snapshot() as tx:
            found = await store.digests.find_by_notification(tx, closed.notification_id or "")
            counts = await store.notifications.get_counts(tx, first.id)
            [(item, digest)] = await store.digests.list_of_notification(
                tx, second.id, user_id="ana", after=None, limit=10
            )
            none_after = await store.digests.list_of_notification(tx, second.id, user_id=None, after="ana", limit=10)
        assert found == stored[closed.digest_id]
        assert counts.collecting == 0
        assert (item.state, digest.state) == (DigestItemState.COLLECTED, DigestState.OPEN)
        assert not none_after

    async def test_the_notification_of_a_digest_is_read_with_its_parts(self, store: Store) -> None:
        made = await store_notifications(store, 3)
        await collect(store, *(make_item(one, window=DigestWindow(LATER, catch_up=MINUTE)) for one in made))
        async with store.transaction() as tx:
            due = await store.digests.lock_due(tx, LATER, 10)
            [digest] = due.digests
            states = (DigestItemState.DIGESTED, DigestItemState.LEFT_OUT, DigestItemState.DIGESTED)
            details: Sequence[dict[str, object]] = (
                {},
                {},
                {LEFT_OUT_ON: {"email": {"reason": SkipReason.PREFERENCE_OFF}}},
            )
            items = [
                structs.replace(item, state=state, detail=detail)
                for item, state, detail in zip(due.items[digest.id], states, details, strict=True)
            ]
            of_digest = replace(make_notification(), digest_id=digest.id)
            await store.notifications.add_many(tx, [of_digest])
            await store.digests.close(tx, [ClosedDigest(digest.id, of_digest.id, 1, items)], LATER)
        async with store.read_snapshot() as tx:
            found = await store.notifications.get(tx, of_digest.id)
            [plain] = await store.notifications.get_many(tx, [made[0].id])
        parts = [DigestPart(made[0].id, None, {}), DigestPart(made[2].id, None, {}, ("email",))]
        assert found == replace(of_digest, parts=parts)
        # of a user with a condition, consent depends on the variables
        condition = Condition("amount", Operator.GREATER, 5)
        for user_id, is_read in (("ben", False), ("ana", True)):
            async with store.transaction() as tx:
                await store.users.set_preferences(tx, user_id, [Preference("NEWS", "", True, condition=condition)])
                found = await store.notifications.get(tx, of_digest.id)
            assert found is not None
            expected = [one.variables if is_read else {} for one in (made[0], made[2])]
            assert [part.variables for part in found.parts] == expected
        assert plain == made[0]
        assert digest.catch_up == MINUTE

    async def test_what_became_of_each_item_is_stored(self, store: Store) -> None:
        [notification] = await store_notifications(store)
        await collect(store, make_item(notification))
        async with store.transaction() as tx:
            due = await store.digests.lock_due(tx, LATER, 10)
            [item] = due.items[due.digests[0].id]
            left_out = type(item)(
                item.digest_id,
                item.notification_id,
                item.user_id,
                item.accepted_at,
                DigestItemState.LEFT_OUT,
                SkipReason.EXPIRED,
                {"channel": "email"},
            )
            await store.digests.close(tx, [ClosedDigest(item.digest_id, None, 1, [left_out])], LATER)
        async with store.read_snapshot() as tx:
            assert await store.digests.list_items(tx, [item.digest_id]) == [left_out]
            assert not await store.digests.has_due(tx, LATER)
        assert (await list_all(store))[0].state is DigestState.EMPTY

    async def test_c3_concurrent_triggers_and_closers_put_each_item_in_one_digest(self, store: Store) -> None:
        made = await store_notifications(store, 24)

        async def add(notification: Notification, now: datetime) -> None:
            await collect(store, make_item(notification), make_item(notification, "ben"), now=now)

        calls = [add(one, NOW) for one in made[:12]]
        await run_concurrently(store, *calls)
        results = await run_concurrently(
            store, *(close(store) for _ in range(3)), *(add(one, LATER) for one in made[12:])
        )
        digested = [item for result in results if result is not None for one in result for item in one.items]
        # those that joined after the closing are in the next digests
        digested += [item for one in await close(store, LATER + 10 * MINUTE) for item in one.items]
        counts = Counter((item.notification_id, item.user_id) for item in digested)
        assert counts == dict.fromkeys(((one.id, user) for one in made for user in ("ana", "ben")), 1)

    async def test_c12_a_digest_is_closed_by_one_of_many(self, store: Store) -> None:
        [notification] = await store_notifications(store)
        await collect(store, make_item(notification), make_item(notification, "ben"))
        results = await run_concurrently(store, *(close(store) for _ in range(4)))
        stored = [*await list_all(store), *await list_all(store, "ben")]
        assert sorted(one.digest_id for result in results for one in result) == sorted(one.id for one in stored)

    async def test_an_erasure_beside_the_closing_leaves_no_trace(self, store: Store) -> None:
        [notification] = await store_notifications(store)
        await collect(store, make_item(notification), make_item(notification, "ben"))

        async def erase() -> None:
            async with store.transaction() as tx:
                await store.users.erase(tx, "ana")

        await run_concurrently(store, erase(), close(store))
        assert not await list_all(store)
        assert len(await list_all(store, "ben")) == 1

    async def test_closed_digests_are_purged(self, store: Store) -> None:
        first, second = await store_notifications(store, 2)
        await collect(store, make_item(first))
        await close(store)
        await collect(store, make_item(second))
        async with store.transaction() as tx:
            assert await store.digests.purge(tx, LATER) == 0
            assert await store.digests.purge(tx, LATER + MINUTE) == 1
            assert await store.digests.count_open(tx, limit=10) == 1
