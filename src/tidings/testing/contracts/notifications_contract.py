"""Suite for `ports.store.Notifications` and `ports.store.Outbox`."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tidings.model.audience import city, everyone, users
from tidings.model.delivery import Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import Notification, NotificationState
from tidings.model.outcome import Delivered
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW, a_notification, planned_scene, tried

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

    async def test_the_outbox_gives_what_is_due_in_order(self, store: Store) -> None:
        tasks = [
            Task(new_id(NOW), TaskKind.FAN_OUT, new_id(NOW), Lane.LOW, NOW + timedelta(seconds=seconds))
            for seconds in (3, 1, 2)
        ]
        async with store.begin() as tx:
            assert await store.outbox.next_due(tx) is None
            await store.outbox.add(tx, tasks)
            await store.outbox.add(tx, [])
            assert await store.outbox.next_due(tx) == NOW + timedelta(seconds=1)
            assert await store.outbox.due(tx, NOW, 9) == []
            assert await store.outbox.due(tx, NOW + timedelta(seconds=2), 9) == [tasks[1], tasks[2]]
            assert await store.outbox.due(tx, NOW + timedelta(seconds=9), 1) == [tasks[1]]
            await store.outbox.remove(tx, [tasks[1].id, tasks[0].id])
            assert await store.outbox.due(tx, NOW + timedelta(seconds=9), 9) == [tasks[2]]
