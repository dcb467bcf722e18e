"""Suite for `ports.store.Notifications`: states, counts, listing and retention."""

from dataclasses import replace

import pytest

from tidings.model.audience import city, everyone, users
from tidings.model.delivery import SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import Accepted
from tidings.ports.store import Store
from tidings.testing.contracts.samples import (
    NOW,
    create_planned_notification,
    make_attempt_result,
    make_notification,
    run_concurrently,
)

STATES = NotificationState


class NotificationsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_notification_reads_back_as_it_was_written(self, store: Store) -> None:
        written = make_notification((users("ana", "ben") | city("Basel")) - users("cleo"))
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [written])
        async with store.read_snapshot() as tx:
            assert await store.notifications.get(tx, written.id) == written
            assert await store.notifications.get(tx, new_id(NOW)) is None

    async def test_many_notifications_are_written_and_read_together(self, store: Store) -> None:
        written = [make_notification(users(name), state=state) for name in ("ana", 'b"n') for state in STATES]
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, written)
            await store.notifications.add_many(tx, [])
        async with store.read_snapshot() as tx:
            ids = [written[5].id, new_id(NOW), written[0].id, written[0].id]
            found = await store.notifications.get_many(tx, ids)
            assert await store.notifications.get_many(tx, []) == []
            assert [await store.notifications.get(tx, one.id) for one in written] == written
        assert sorted(found, key=lambda one: one.id) == [written[0], written[5]]

    async def test_advance_moves_state_cursor_and_counts(self, store: Store) -> None:
        start = make_notification()
        moved = start.with_progress(cursor="ben", recipients=2, deliveries=3, skipped=1, is_complete=False)
        done = moved.with_progress(cursor="zoe", recipients=1, deliveries=1, skipped=0, is_complete=True)
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [start])
            assert await store.notifications.compare_and_set_progress_many(tx, [(start, moved)])
            assert await store.notifications.get(tx, start.id) == moved
            assert await store.notifications.compare_and_set_progress_many(tx, [(moved, done)])
            assert await store.notifications.get(tx, start.id) == done
        assert (done.recipients, done.deliveries, done.skipped) == (3, 4, 1)

    async def test_only_one_of_two_can_advance_from_the_same_place(self, store: Store) -> None:
        start = make_notification()
        moved = start.with_progress(cursor="ben", recipients=2, deliveries=2, skipped=0, is_complete=False)
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [start])
            assert await store.notifications.compare_and_set_progress_many(tx, [(start, moved)])
            assert not await store.notifications.compare_and_set_progress_many(tx, [(start, moved)])
            assert not await store.notifications.compare_and_set_progress_many(
                tx, [(replace(moved, cursor="ana"), moved)]
            )
            assert await store.notifications.get(tx, start.id) == moved

    async def test_a_cancelled_notification_does_not_advance(self, store: Store) -> None:
        start = make_notification()
        moved = start.with_progress(cursor="ben", recipients=2, deliveries=2, skipped=0, is_complete=False)
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [start])
            assert await store.notifications.cancel(tx, start.id)
            assert not await store.notifications.cancel(tx, start.id)
            assert not await store.notifications.cancel(tx, new_id(NOW))
            assert not await store.notifications.compare_and_set_progress_many(tx, [(start, moved)])
            found = await store.notifications.get(tx, start.id)
        assert found is not None
        assert found.state is STATES.CANCELLED

    async def test_many_advance_together_and_those_that_somebody_else_moved_do_not(self, store: Store) -> None:
        free, half, raced, cancelled, unknown = starts = [make_notification(users(name)) for name in "abcde"]
        half = half.with_progress(cursor='z"é', recipients=1, deliveries=1, skipped=0, is_complete=False)
        elsewhere = raced.with_progress(cursor="ben", recipients=1, deliveries=1, skipped=0, is_complete=False)
        moves = [
            (before, before.with_progress(cursor="zoe", recipients=2, deliveries=3, skipped=1, is_complete=done))
            for before, done in ((cancelled, True), (raced, True), (half, False), (unknown, True), (free, True))
        ]
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [free, half, raced, cancelled])
            await store.notifications.compare_and_set_progress_many(tx, [(raced, elsewhere)])
            await store.notifications.cancel(tx, cancelled.id)
            assert await store.notifications.compare_and_set_progress_many(tx, []) == set()
            assert await store.notifications.compare_and_set_progress_many(tx, moves) == {free.id, half.id}
            assert await store.notifications.compare_and_set_progress_many(tx, moves) == set(), (
                "nobody moves twice from the same place"
            )
            found = {one.id: one for one in await store.notifications.get_many(tx, [one.id for one in starts])}
        after = {before.id: after for before, after in moves}
        assert [found[one.id] for one in (free, half, raced)] == [after[free.id], after[half.id], elsewhere]
        assert found[cancelled.id].state is STATES.CANCELLED
        assert unknown.id not in found

    async def test_of_those_that_advance_the_same_ones_at_once_each_goes_to_one(self, store: Store) -> None:
        starts = [make_notification() for _ in range(300)]
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, starts)

        async def advance(turn: int) -> list[str]:
            moves = [
                (one, one.with_progress(cursor=None, recipients=turn, deliveries=0, skipped=0, is_complete=True))
                for one in (starts[::-1] if turn % 2 else starts)
            ]
            async with store.transaction() as tx:
                return sorted(await store.notifications.compare_and_set_progress_many(tx, moves))

        moved = [one for got in await run_concurrently(store, *(advance(turn) for turn in range(6))) for one in got]
        assert sorted(moved) == sorted(one.id for one in starts)

    async def test_counts_tell_how_far_it_has_come(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben", "cleo")
        moved = scene.notification.with_progress(cursor=None, recipients=4, deliveries=3, skipped=1, is_complete=True)
        first, *_ = await scene.claim(store)
        skipped = SkipRecord(scene.notification.id, "dan", "webpush", SkipReason.NO_DEVICE)
        async with store.transaction() as tx:
            await store.notifications.compare_and_set_progress_many(tx, [(scene.notification, moved)])
            await store.deliveries.add(tx, [], [skipped], NOW)
            await store.deliveries.record(tx, [make_attempt_result(first, Accepted())], NOW)
            counts = await store.notifications.get_counts(tx, scene.notification.id)
        assert (counts.recipients, counts.deliveries, counts.skipped) == (4, 3, 1)
        assert counts.by_state == {"delivered": 1, "sending": 2}

    async def test_unplanned_ones_are_found_oldest_first_in_pages(self, store: Store) -> None:
        made = [make_notification(state=state) for state in (*STATES, *STATES)]
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, made)
        found: list[Notification] = []
        after = None
        async with store.read_snapshot() as tx:
            while page := await store.notifications.list_open(tx, after=after, limit=3):
                found += page
                after = page[-1].id
        assert found == [one for one in made if one.state in (STATES.ACCEPTED, STATES.FANNING_OUT)]

    async def test_recent_ones_come_newest_first_in_pages(self, store: Store) -> None:
        made = [make_notification() for _ in range(5)]
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, made)
            first = await store.notifications.list_page(tx, before=None, limit=3)
            second = await store.notifications.list_page(tx, before=first[-1].id, limit=3)
        assert [*first, *second] == made[::-1]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"state": STATES.CANCELLED}, [1]),
            ({"state": STATES.FANNING_OUT}, []),
            ({"state": STATES.ACCEPTED}, [4, 3, 2, 0]),
            ({"category": "ORDERS"}, [2]),
            ({"template": "SHIPPED"}, [2]),
            ({"user_id": "ana"}, [3]),
            ({"user_id": "ben"}, [4]),
            ({"user_id": "ana", "state": STATES.CANCELLED}, []),
        ],
    )
    async def test_recent_ones_can_be_filtered(
        self, store: Store, filters: dict[str, NotificationState | str], expected: list[int]
    ) -> None:
        made = [
            make_notification(),
            make_notification(state=STATES.CANCELLED),
            make_notification(category="ORDERS", template="SHIPPED"),
        ]
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, made)
        made.append((await create_planned_notification(store, "ana")).notification)
        made.append(make_notification(everyone()))
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [made[-1]])
            await store.deliveries.add(tx, [], [SkipRecord(made[-1].id, "ben", "webpush", SkipReason.NO_DEVICE)], NOW)
            found = await store.notifications.list_page(tx, before=None, limit=9, **filters)  # type: ignore[arg-type]  # by key
        assert [one.id for one in found] == [made[place].id for place in expected]
