"""Suite for `ports.inbox.Inbox`: the feeds of users, and their counters."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from tidings.model.ids import new_id
from tidings.model.inbox import InboxChange, InboxChangeKind, InboxCounts, InboxItem, InboxState, InboxView
from tidings.model.priority import Priority
from tidings.model.template import MessageAction
from tidings.model.user import User
from tidings.ports.store import Store, Transaction
from tidings.testing.contracts.samples import NOW, create_planned_notification, make_id_at, run_concurrently

LATER = NOW + timedelta(hours=1)
MUCH_LATER = NOW + timedelta(days=2)

#: steps of the generated runs
STEPS = ("add", "seen", "read", "unread", "archive", "unarchive", "snooze", "wake", "read all", "recall", "wait")
#: function-scoped fixtures are safe here, because each example rolls back its changes
_SUPPRESSED_HEALTH_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]

Work = Callable[[Transaction], Awaitable[Sequence[InboxChange]]]


def make_item(user_id: str = "ana", notification_id: str | None = None, *, key: str | None = None) -> InboxItem:
    """Return an item that arrives now and expires in a day."""
    notification_id = notification_id or new_id(NOW)
    return InboxItem(
        id=new_id(NOW),
        user_id=user_id,
        notification_id=notification_id,
        category="NEWS",
        title="Grüße <b>",
        body="You",
        url="https://example.org/orders/1",
        lang="en",
        priority=Priority.HIGH,
        collapse_key=key or notification_id,
        created_at=NOW,
        expires_at=NOW + timedelta(days=1),
        actions=(MessageAction("open", "Open", "https://example.org/orders/1"),),
    )


async def apply_change(store: Store, work: Work) -> Sequence[InboxChange]:
    """Run a change in a transaction of its own."""
    async with store.transaction() as tx:
        return await work(tx)


async def add_users(store: Store, *user_ids: str) -> None:
    """Store users."""
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User(user_id) for user_id in user_ids], NOW)


async def add_items(store: Store, *items: InboxItem) -> Sequence[InboxChange]:
    """Store items, each in a transaction of its own."""
    changes: list[InboxChange] = []
    for item in items:
        changes += await apply_change(store, lambda tx, item=item: store.inbox.add_many(tx, [item], NOW))  # type: ignore[misc]
    return changes


async def list_ids(store: Store, view: InboxView = InboxView.ALL, user_id: str = "ana") -> list[str]:
    """Return the ids of the items of a view, the latest arrival first."""
    async with store.read_snapshot() as tx:
        return [item.id for item in await store.inbox.page(tx, user_id, view, before=None, limit=100)]


async def count(store: Store, user_id: str = "ana") -> tuple[int, int]:
    """Return (unseen, unread) of a user by the counters, which must equal a recount of the rows."""
    async with store.read_snapshot() as tx:
        return await check_counters(store, tx, user_id)


async def check_counters(store: Store, tx: Transaction, user_id: str = "ana") -> tuple[int, int]:
    """Return (unseen, unread) of a user after comparing the counters with the rows."""
    counts = await store.inbox.get_counts(tx, user_id)
    rows = await store.inbox.list_all(tx, user_id, after=None, limit=10_000)
    active = [item for item in rows if item.state is InboxState.ACTIVE]
    recount = sum(item.seen_at is None for item in active), sum(item.read_at is None for item in active)
    assert (counts.unseen, counts.unread) == recount
    return recount


async def run_step(
    store: Store, tx: Transaction, name: str, items: Sequence[InboxItem], now: datetime
) -> Sequence[InboxChange]:
    """Apply a step to items, some of which may not be stored."""
    inbox, ids = store.inbox, [item.id for item in items]
    match name:
        case "add":
            return await inbox.add_many(tx, items, now)
        case "seen":
            return await inbox.set_seen(tx, "ana", ids, now)
        case "read":
            return await inbox.set_read(tx, "ana", ids, now)
        case "unread":
            return await inbox.set_unread(tx, "ana", ids, now)
        case "archive":
            return await inbox.archive(tx, "ana", ids, now)
        case "unarchive":
            return await inbox.unarchive(tx, "ana", ids, now)
        case "snooze":
            return await inbox.snooze(tx, "ana", ids, now + timedelta(hours=5), now)
        case "wake":
            return await inbox.snooze(tx, "ana", ids, None, now)
        case "read all" if ids:
            return await inbox.read_all(tx, "ana", ids[-1], now)
        case "recall" if ids:
            return await inbox.recall(tx, items[-1].notification_id, now, limit=10)
        case _:
            return await inbox.settle_due(tx, now, limit=10)


class _RollbackSignal(Exception):
    """Raised at the end of an example to roll back its transaction."""


class InboxContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_an_added_item_reads_back(self, store: Store) -> None:
        await add_users(store, "ana")
        item = make_item(key="order:1")
        (added,) = await add_items(store, item)
        assert (added.kind, added.counts) == (InboxChangeKind.ADDED, InboxCounts(1, 1, 1))
        async with store.read_snapshot() as tx:
            (stored,) = await store.inbox.page(tx, "ana", InboxView.ALL, before=None, limit=10)
            assert stored == structs.replace(item, position=1) == added.items[0]
            assert await store.inbox.find(tx, "ana", item.id) == stored
            assert await store.inbox.find(tx, "ana", item.notification_id) == stored
            assert await store.inbox.find(tx, "ben", item.id) is None

    async def test_an_item_that_is_added_again_changes_nothing(self, store: Store) -> None:
        await add_users(store, "ana")
        item = make_item()
        await add_items(store, item)
        await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [item.id], NOW))
        assert await add_items(store, structs.replace(item, id=new_id(NOW), title="Again")) == []
        assert (await list_ids(store), await count(store)) == ([item.id], (0, 0))

    async def test_items_of_unknown_users_are_left_out(self, store: Store) -> None:
        await add_users(store, "ana")
        items = [make_item("ana"), make_item("nobody")]
        changes = await apply_change(store, lambda tx: store.inbox.add_many(tx, items, NOW))
        assert [one.user_id for one in changes] == ["ana"]

    async def test_seen_and_read_are_separate_and_read_includes_seen(self, store: Store) -> None:
        await add_users(store, "ana")
        first, second = make_item(), make_item()
        await add_items(store, first, second)
        await apply_change(store, lambda tx: store.inbox.set_seen(tx, "ana", [first.id], NOW))
        assert await count(store) == (1, 2)
        (read,) = await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [second.id], LATER))
        assert (read.item_ids, read.counts) == ([second.id], InboxCounts(0, 1, 4))
        await apply_change(store, lambda tx: store.inbox.set_unread(tx, "ana", [second.id], LATER))
        assert await count(store) == (0, 2)

    async def test_a_repeated_change_has_no_effect(self, store: Store) -> None:
        await add_users(store, "ana")
        item = make_item()
        await add_items(store, item)
        inbox, ids, until = store.inbox, [item.id, item.id], LATER
        steps: list[Work] = [
            lambda tx: inbox.set_seen(tx, "ana", ids, NOW),
            lambda tx: inbox.set_read(tx, "ana", ids, NOW),
            lambda tx: inbox.set_unread(tx, "ana", ids, NOW),
            lambda tx: inbox.snooze(tx, "ana", ids, until, NOW),
            lambda tx: inbox.archive(tx, "ana", ids, NOW),
            lambda tx: inbox.unarchive(tx, "ana", ids, NOW),
            lambda tx: inbox.read_all(tx, "ana", item.id, NOW),
            lambda tx: inbox.recall(tx, item.notification_id, NOW, limit=10),
        ]
        for step in steps:
            assert len(await apply_change(store, step)) == 1
            assert await apply_change(store, step) == []
            await count(store)

    async def test_a_user_cannot_change_the_items_of_another(self, store: Store) -> None:
        await add_users(store, "ana", "ben")
        item = make_item()
        await add_items(store, item)
        inbox, ids = store.inbox, [item.id, item.notification_id]
        steps: list[Work] = [
            lambda tx: inbox.set_seen(tx, "ben", ids, NOW),
            lambda tx: inbox.set_read(tx, "ben", ids, NOW),
            lambda tx: inbox.archive(tx, "ben", ids, NOW),
            lambda tx: inbox.snooze(tx, "ben", ids, LATER, NOW),
            lambda tx: inbox.read_all(tx, "ben", item.id, NOW),
            lambda tx: inbox.set_seen(tx, "nobody", ids, NOW),
        ]
        assert [await apply_change(store, step) for step in steps] == [[]] * len(steps)
        assert await count(store) == (1, 1)

    async def test_pages_neither_repeat_nor_skip_while_items_arrive(self, store: Store) -> None:
        await add_users(store, "ana")
        items = [make_item() for _ in range(5)]
        await add_items(store, *items)
        async with store.read_snapshot() as tx:
            first = await store.inbox.page(tx, "ana", InboxView.ALL, before=None, limit=2)
        await add_items(store, make_item())
        async with store.read_snapshot() as tx:
            rest = await store.inbox.page(tx, "ana", InboxView.ALL, before=first[-1].position, limit=10)
        assert [item.id for item in (*first, *rest)] == [item.id for item in reversed(items)]

    async def test_an_item_that_arrives_late_is_above_those_already_shown(self, store: Store) -> None:
        await add_users(store, "ana")
        late = make_item()
        shown = make_item()
        await add_items(store, shown, late)
        assert await list_ids(store) == [late.id, shown.id], "in the order of arrival, not of the ids"
        await apply_change(store, lambda tx: store.inbox.read_all(tx, "ana", shown.id, NOW))
        assert await list_ids(store, InboxView.UNREAD) == [late.id]

    async def test_marking_all_as_read_ends_at_the_newest_item_that_was_shown(self, store: Store) -> None:
        await add_users(store, "ana", "ben")
        items = [make_item() for _ in range(4)]
        await add_items(store, *items, make_item("ben"))
        (read,) = await apply_change(store, lambda tx: store.inbox.read_all(tx, "ana", items[2].id, NOW))
        assert (read.kind, read.up_to, read.counts) == (InboxChangeKind.READ_ALL, items[2].id, InboxCounts(1, 1, 5))
        assert await list_ids(store, InboxView.UNREAD) == [items[3].id]
        assert await count(store, "ben") == (1, 1)
        assert await apply_change(store, lambda tx: store.inbox.read_all(tx, "ana", new_id(NOW), NOW)) == []

    async def test_archived_items_are_not_counted_and_return_as_they_were(self, store: Store) -> None:
        await add_users(store, "ana")
        first, second = make_item(), make_item()
        await add_items(store, first, second)
        await apply_change(store, lambda tx: store.inbox.archive(tx, "ana", [first.id], NOW))
        assert await count(store) == (1, 1)
        assert (await list_ids(store), await list_ids(store, InboxView.ARCHIVED)) == ([second.id], [first.id])
        await apply_change(store, lambda tx: store.inbox.unarchive(tx, "ana", [first.id], NOW))
        assert (await list_ids(store), await count(store)) == ([second.id, first.id], (2, 2))

    async def test_an_item_in_the_archive_does_not_expire(self, store: Store) -> None:
        await add_users(store, "ana")
        item = make_item()
        await add_items(store, item)
        await apply_change(store, lambda tx: store.inbox.archive(tx, "ana", [item.id], NOW))
        assert await apply_change(store, lambda tx: store.inbox.settle(tx, "ana", MUCH_LATER)) == []
        assert await apply_change(store, lambda tx: store.inbox.unarchive(tx, "ana", [item.id], MUCH_LATER)) == []
        assert await list_ids(store, InboxView.ARCHIVED) == [item.id]

    async def test_a_snoozed_item_returns_as_unread_at_its_time(self, store: Store) -> None:
        await add_users(store, "ana")
        item, other = make_item(), make_item()
        await add_items(store, item, other)
        await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [item.id], NOW))
        await apply_change(store, lambda tx: store.inbox.snooze(tx, "ana", [item.id], LATER, NOW))
        assert (await list_ids(store), await count(store)) == ([other.id], (1, 1))
        early = LATER - timedelta(seconds=1)
        assert await apply_change(store, lambda tx: store.inbox.settle_due(tx, early, limit=10)) == []
        async with store.read_snapshot() as tx:
            assert not await store.inbox.has_due(tx, "ana", early)
            assert await store.inbox.has_due(tx, "ana", LATER)
            assert not await store.inbox.has_due(tx, None, early)
            assert await store.inbox.has_due(tx, None, LATER)
        (back,) = await apply_change(store, lambda tx: store.inbox.settle_due(tx, LATER, limit=10))
        assert (back.kind, back.item_ids, back.counts.unread) == (InboxChangeKind.RETURNED, [item.id], 2)
        assert back.items[0].snoozed_until is None
        assert await list_ids(store, InboxView.UNREAD) == [item.id, other.id], "it arrives again, at the top"
        assert await count(store) == (2, 2)

    async def test_a_snooze_can_be_ended_early(self, store: Store) -> None:
        await add_users(store, "ana")
        item, other = make_item(), make_item()
        await add_items(store, item, other)
        await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [item.id], NOW))
        await apply_change(store, lambda tx: store.inbox.snooze(tx, "ana", [item.id], LATER, NOW))
        (back,) = await apply_change(store, lambda tx: store.inbox.snooze(tx, "ana", [item.id], None, NOW))
        assert back.kind is InboxChangeKind.RETURNED
        assert (await list_ids(store), await count(store)) == ([other.id, item.id], (1, 1))

    async def test_archiving_ends_a_snooze(self, store: Store) -> None:
        await add_users(store, "ana")
        item = make_item()
        await add_items(store, item)
        await apply_change(store, lambda tx: store.inbox.snooze(tx, "ana", [item.id], LATER, NOW))
        await apply_change(store, lambda tx: store.inbox.archive(tx, "ana", [item.id], NOW))
        assert await apply_change(store, lambda tx: store.inbox.settle(tx, "ana", LATER)) == []
        assert await list_ids(store, InboxView.ARCHIVED) == [item.id]

    async def test_an_expired_item_leaves_the_feed_and_the_counters(self, store: Store) -> None:
        await add_users(store, "ana")
        item, lasting = make_item(), structs.replace(make_item(), expires_at=None)
        await add_items(store, item, lasting)
        (gone,) = await apply_change(store, lambda tx: store.inbox.settle_due(tx, MUCH_LATER, limit=10))
        assert (gone.kind, gone.item_ids) == (InboxChangeKind.REMOVED, [item.id])
        assert (await list_ids(store), await count(store)) == ([lasting.id], (1, 1))
        assert await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [item.id], MUCH_LATER)) == []
        await apply_change(store, lambda tx: store.inbox.add_many(tx, [make_item()], MUCH_LATER))
        assert await count(store) == (1, 1), "an item that arrives after its expiry is not shown"

    async def test_a_change_settles_what_is_due_first(self, store: Store) -> None:
        await add_users(store, "ana")
        item = make_item()
        await add_items(store, item)
        kinds = [
            one.kind
            for one in await apply_change(store, lambda tx: store.inbox.archive(tx, "ana", [item.id], MUCH_LATER))
        ]
        assert (kinds, await count(store)) == ([InboxChangeKind.REMOVED], (0, 0))

    async def test_a_newer_item_replaces_an_older_one_with_its_key(self, store: Store) -> None:
        await add_users(store, "ana", "ben")
        older, other, newer = make_item(key="order:1"), make_item(key="order:2"), make_item(key="order:1")
        await add_items(store, older, other, make_item("ben", key="order:1"))
        await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [older.id], NOW))
        (added,) = await add_items(store, newer)
        assert (added.item_ids, added.removed_ids) == ([newer.id], [older.id])
        assert (await list_ids(store), await count(store)) == ([newer.id, other.id], (2, 2))
        assert await add_items(store, older) == [], "the repeat of a replaced item"
        assert await count(store, "ben") == (1, 1)

    async def test_an_older_item_that_arrives_late_replaces_nothing(self, store: Store) -> None:
        await add_users(store, "ana")
        older, newer = make_item(key="order:1"), make_item(key="order:1")
        await add_items(store, newer, older)
        assert (await list_ids(store), await count(store)) == ([newer.id], (1, 1))
        again = [make_item(key="order:3"), make_item(key="order:3")]
        await apply_change(store, lambda tx: store.inbox.add_many(tx, again[::-1], NOW))
        assert await list_ids(store) == [again[1].id, newer.id], "in one transaction, too"

    async def test_an_update_without_notice_keeps_position_and_marks(self, store: Store) -> None:
        await add_users(store, "ana")
        older, other = make_item(key="order:1"), make_item()
        await add_items(store, older, other)
        await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [older.id], NOW))
        update = structs.replace(make_item(key="order:1"), renotify=False, title="Corrected")
        await add_items(store, update)
        assert (await list_ids(store), await count(store)) == ([other.id, update.id], (1, 1))

    async def test_a_notification_that_is_read_before_its_item_arrives_is_read(self, store: Store) -> None:
        planned = await create_planned_notification(store, "ana")
        early = planned.notification.id
        for _ in range(2):
            assert await apply_change(store, lambda tx: store.inbox.set_seen(tx, "ana", [early], NOW)) == []
        assert await apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", [early], NOW)) == []
        assert (await list_ids(store), await count(store)) == ([], (0, 0))
        item = make_item("ana", early)
        (added,) = await add_items(store, item)
        assert (added.counts.unseen, added.counts.unread, added.items[0].read_at) == (0, 0, NOW)
        assert (await list_ids(store), await count(store)) == ([item.id], (0, 0))

    async def test_a_stranger_cannot_mark_notifications_of_others_beforehand(self, store: Store) -> None:
        planned = await create_planned_notification(store, "ana")
        await add_users(store, "ben")
        refs = [planned.notification.id, new_id(NOW), "nonsense"]
        assert await apply_change(store, lambda tx: store.inbox.set_seen(tx, "ben", refs, NOW)) == []
        async with store.read_snapshot() as tx:
            assert await store.inbox.list_all(tx, "ben", after=None, limit=10) == []

    async def test_a_recall_removes_a_notification_from_all_feeds(self, store: Store) -> None:
        await add_users(store, "ana", "ben", "cho", "dee")
        notification_id = new_id(NOW)
        items = [make_item(user_id, notification_id) for user_id in ("ana", "ben", "cho")]
        await add_items(store, *items, make_item())
        await apply_change(store, lambda tx: store.inbox.archive(tx, "ben", [notification_id], NOW))
        await apply_change(store, lambda tx: store.inbox.snooze(tx, "cho", [notification_id], LATER, NOW))
        pages = [
            await apply_change(store, lambda tx: store.inbox.recall(tx, notification_id, NOW, limit=2))
            for _ in range(3)
        ]
        assert [[one.user_id for one in page] for page in pages] == [["ana", "ben"], ["cho"], []]
        assert {one.kind for page in pages for one in page} == {InboxChangeKind.REMOVED}
        assert [await count(store, user_id) for user_id in ("ana", "ben", "cho")] == [(1, 1), (0, 0), (0, 0)]
        assert await list_ids(store, InboxView.ARCHIVED, "ben") == []
        assert await apply_change(store, lambda tx: store.inbox.settle(tx, "cho", LATER)) == []
        assert await add_items(store, make_item("dee", notification_id)) == [], "also if it arrives later"
        assert await count(store, "dee") == (0, 0)

    async def test_old_items_are_purged_and_no_longer_counted(self, store: Store) -> None:
        await add_users(store, "ana")
        old = structs.replace(make_item(), id=make_id_at(NOW - timedelta(days=40)))
        fresh = make_item()
        await add_items(store, old, fresh)
        before = NOW - timedelta(days=30)
        (gone,) = await apply_change(store, lambda tx: store.inbox.purge(tx, before, limit=10))
        assert (gone.item_ids, gone.counts.unread) == ([old.id], 1)
        assert await apply_change(store, lambda tx: store.inbox.purge(tx, before, limit=10)) == []
        assert (await list_ids(store), await count(store)) == ([fresh.id], (1, 1))

    async def test_an_erased_user_has_no_feed(self, store: Store) -> None:
        await add_users(store, "ana")
        await add_items(store, make_item())
        async with store.transaction() as tx:
            await store.users.erase(tx, "ana")
        async with store.read_snapshot() as tx:
            assert await store.inbox.list_all(tx, "ana", after=None, limit=10) == []
            assert await store.inbox.get_counts(tx, "ana") == InboxCounts()

    async def test_two_devices_that_mark_items_at_once_count_each_once(self, store: Store) -> None:
        await add_users(store, "ana")
        items = [make_item() for _ in range(8)]
        await add_items(store, *items)
        ids = [item.id for item in items]
        results = await run_concurrently(
            store,
            *(apply_change(store, lambda tx: store.inbox.set_seen(tx, "ana", ids, NOW)) for _ in range(2)),
            *(apply_change(store, lambda tx: store.inbox.set_read(tx, "ana", ids[:5], NOW)) for _ in range(2)),
            apply_change(store, lambda tx: store.inbox.archive(tx, "ana", ids[3:6], NOW)),
            apply_change(store, lambda tx: store.inbox.add_many(tx, [make_item(), make_item()], NOW)),
            apply_change(store, lambda tx: store.inbox.recall(tx, items[7].notification_id, NOW, limit=10)),
        )
        versions = sorted(one.counts.version for result in results for one in result)
        assert versions == list(range(9, 9 + len(versions))), "each change has a version of its own"
        unseen, unread = await count(store)
        assert (unseen, unread) == (2, 4 - 1)

    async def test_marks_and_arrivals_at_once_lose_nothing(self, store: Store) -> None:
        planned = [await create_planned_notification(store, "ana") for _ in range(6)]
        ids = [one.notification.id for one in planned]
        await run_concurrently(
            store,
            *(apply_change(store, lambda tx, i=i: store.inbox.add_many(tx, [make_item("ana", i)], NOW)) for i in ids),  # type: ignore[misc]
            *(apply_change(store, lambda tx, i=i: store.inbox.set_read(tx, "ana", [i], NOW)) for i in ids),  # type: ignore[misc]
        )
        assert (len(await list_ids(store)), await count(store)) == (6, (0, 0))

    @settings(max_examples=8, deadline=None, suppress_health_check=_SUPPRESSED_HEALTH_CHECKS)
    @given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=5, max_size=15))
    async def test_the_counters_equal_a_recount_after_any_steps(
        self, store: Store, steps: list[tuple[str, int]]
    ) -> None:
        with suppress(_RollbackSignal):
            async with store.transaction() as tx:
                await store.users.upsert(tx, [User("ana")], NOW)
                items: list[InboxItem] = []
                versions, now = [0], NOW
                for name, number in steps:
                    now += timedelta(hours=9 * (name == "wait"))
                    items.append(make_item(key=f"key:{number}"))
                    changes = await run_step(store, tx, name, items if name == "add" else items[number::4], now)
                    versions += [one.counts.version for one in changes]
                    await check_counters(store, tx)
                assert versions == list(range(len(versions))), "each change has the next version"
                raise _RollbackSignal
