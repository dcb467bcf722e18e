"""Suite for `ports.store.Notifications`."""

from dataclasses import replace

import pytest

from tidings.model.audience import city, everyone, users
from tidings.model.delivery import Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import Delivered
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW, a_notification, at_once, planned_scene, tried

STATES = NotificationState


class NotificationsContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_a_notification_reads_back_as_it_was_written(self, store: Store) -> None:
        written = a_notification((users("ana", "ben") | city("Basel")) - users("cleo"))
        async with store.begin() as tx:
            await store.notifications.add(tx, written)
        async with store.read() as tx:
            assert await store.notifications.get(tx, written.id) == written
            assert await store.notifications.get(tx, new_id(NOW)) is None

    async def test_many_notifications_are_written_and_read_together(self, store: Store) -> None:
        written = [a_notification(users(name), state=state) for name in ("ana", 'b"n') for state in STATES]
        async with store.begin() as tx:
            await store.notifications.add_many(tx, written)
            await store.notifications.add_many(tx, [])
        async with store.read() as tx:
            asked = [written[5].id, new_id(NOW), written[0].id, written[0].id]
            found = await store.notifications.get_many(tx, asked)
            assert await store.notifications.get_many(tx, []) == []
            assert [await store.notifications.get(tx, one.id) for one in written] == written
        assert sorted(found, key=lambda one: one.id) == [written[0], written[5]]

    async def test_advance_moves_state_cursor_and_counts(self, store: Store) -> None:
        start = a_notification()
        moved = start.moved(cursor="ben", recipients=2, deliveries=3, skipped=1, done=False)
        done = moved.moved(cursor="zoe", recipients=1, deliveries=1, skipped=0, done=True)
        async with store.begin() as tx:
            await store.notifications.add(tx, start)
            assert await store.notifications.advance(tx, start, moved)
            assert await store.notifications.get(tx, start.id) == moved
            assert await store.notifications.advance(tx, moved, done)
            assert await store.notifications.get(tx, start.id) == done
        assert (done.recipients, done.deliveries, done.skipped) == (3, 4, 1)

    async def test_only_one_of_two_can_advance_from_the_same_place(self, store: Store) -> None:
        start = a_notification()
        moved = start.moved(cursor="ben", recipients=2, deliveries=2, skipped=0, done=False)
        async with store.begin() as tx:
            await store.notifications.add(tx, start)
            assert await store.notifications.advance(tx, start, moved)
            assert not await store.notifications.advance(tx, start, moved)
            assert not await store.notifications.advance(tx, replace(moved, cursor="ana"), moved)
            assert await store.notifications.get(tx, start.id) == moved

    async def test_a_cancelled_notification_does_not_advance(self, store: Store) -> None:
        start = a_notification()
        moved = start.moved(cursor="ben", recipients=2, deliveries=2, skipped=0, done=False)
        async with store.begin() as tx:
            await store.notifications.add(tx, start)
            assert await store.notifications.cancel(tx, start.id)
            assert not await store.notifications.cancel(tx, start.id)
            assert not await store.notifications.cancel(tx, new_id(NOW))
            assert not await store.notifications.advance(tx, start, moved)
            found = await store.notifications.get(tx, start.id)
        assert found is not None
        assert found.state is STATES.CANCELLED

    async def test_many_advance_together_and_those_that_somebody_else_moved_do_not(self, store: Store) -> None:
        free, half, raced, cancelled, unknown = starts = [a_notification(users(name)) for name in "abcde"]
        half = half.moved(cursor='z"é', recipients=1, deliveries=1, skipped=0, done=False)
        elsewhere = raced.moved(cursor="ben", recipients=1, deliveries=1, skipped=0, done=False)
        moves = [
            (before, before.moved(cursor="zoe", recipients=2, deliveries=3, skipped=1, done=done))
            for before, done in ((cancelled, True), (raced, True), (half, False), (unknown, True), (free, True))
        ]
        async with store.begin() as tx:
            await store.notifications.add_many(tx, [free, half, raced, cancelled])
            await store.notifications.advance(tx, raced, elsewhere)
            await store.notifications.cancel(tx, cancelled.id)
            assert await store.notifications.advance_many(tx, []) == set()
            assert await store.notifications.advance_many(tx, moves) == {free.id, half.id}
            assert await store.notifications.advance_many(tx, moves) == set(), "nobody moves twice from the same place"
            found = {one.id: one for one in await store.notifications.get_many(tx, [one.id for one in starts])}
        after = {before.id: after for before, after in moves}
        assert [found[one.id] for one in (free, half, raced)] == [after[free.id], after[half.id], elsewhere]
        assert found[cancelled.id].state is STATES.CANCELLED
        assert unknown.id not in found

    async def test_of_those_that_advance_the_same_ones_at_once_each_goes_to_one(self, store: Store) -> None:
        starts = [a_notification() for _ in range(300)]
        async with store.begin() as tx:
            await store.notifications.add_many(tx, starts)

        async def advance(turn: int) -> list[str]:
            moves = [
                (one, one.moved(cursor=None, recipients=turn, deliveries=0, skipped=0, done=True))
                for one in (starts[::-1] if turn % 2 else starts)
            ]
            async with store.begin() as tx:
                return sorted(await store.notifications.advance_many(tx, moves))

        moved = [one for got in await at_once(store, *(advance(turn) for turn in range(6))) for one in got]
        assert sorted(moved) == sorted(one.id for one in starts)

    async def test_counts_tell_how_far_it_has_come(self, store: Store) -> None:
        scene = await planned_scene(store, "ana", "ben", "cleo")
        moved = scene.notification.moved(cursor=None, recipients=4, deliveries=3, skipped=1, done=True)
        first, *_ = await scene.claim(store)
        skipped = Skipped(scene.notification.id, "dan", "webpush", SkipReason.NO_DEVICE)
        async with store.begin() as tx:
            await store.notifications.advance(tx, scene.notification, moved)
            await store.deliveries.add(tx, [], [skipped], NOW)
            await store.deliveries.record(tx, [tried(first, Delivered())], NOW)
            counts = await store.notifications.counts(tx, scene.notification.id)
        assert (counts.recipients, counts.deliveries, counts.skipped) == (4, 3, 1)
        assert counts.by_state == {"delivered": 1, "sending": 2}

    async def test_unplanned_ones_are_found_oldest_first_in_pages(self, store: Store) -> None:
        made = [a_notification(state=state) for state in (*STATES, *STATES)]
        async with store.begin() as tx:
            for one in made:
                await store.notifications.add(tx, one)
        found: list[Notification] = []
        after = None
        async with store.read() as tx:
            while page := await store.notifications.unplanned(tx, after=after, limit=3):
                found += page
                after = page[-1].id
        assert found == [one for one in made if one.state in (STATES.ACCEPTED, STATES.FANNING_OUT)]

    async def test_recent_ones_come_newest_first_in_pages(self, store: Store) -> None:
        made = [a_notification() for _ in range(5)]
        async with store.begin() as tx:
            for one in made:
                await store.notifications.add(tx, one)
            first = await store.notifications.recent(tx, before=None, limit=3)
            second = await store.notifications.recent(tx, before=first[-1].id, limit=3)
        assert [*first, *second] == made[::-1]

    @pytest.mark.parametrize(
        ("asked", "expected"),
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
        self, store: Store, asked: dict[str, NotificationState | str], expected: list[int]
    ) -> None:
        made = [
            a_notification(),
            a_notification(state=STATES.CANCELLED),
            a_notification(category="ORDERS", template="SHIPPED"),
        ]
        async with store.begin() as tx:
            for one in made:
                await store.notifications.add(tx, one)
        made.append((await planned_scene(store, "ana")).notification)
        made.append(a_notification(everyone()))
        async with store.begin() as tx:
            await store.notifications.add(tx, made[-1])
            await store.deliveries.add(tx, [], [Skipped(made[-1].id, "ben", "webpush", SkipReason.NO_DEVICE)], NOW)
            found = await store.notifications.recent(tx, before=None, limit=9, **asked)  # type: ignore[arg-type]  # by key
        assert [one.id for one in found] == [made[place].id for place in expected]
