"""Suite for `ports.store.Deliveries`: batching of due deliveries and detection of work without a task."""

from datetime import datetime, timedelta

import pytest

from tidings.model.ids import new_id
from tidings.model.outcome import RetryLater
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Store
from tidings.testing.contracts.samples import (
    NOW,
    PlannedNotification,
    create_planned_notification,
    make_attempt_result,
    make_id_at,
    make_notification,
    make_planned_delivery,
    run_concurrently,
)

SOON = NOW + timedelta(minutes=5)
MINUTE = timedelta(minutes=1)


class BatchesContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_what_is_deferred_wakes_when_it_is_due_and_not_before(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.record(tx, [make_attempt_result(due, RetryLater(SOON, "busy"))], NOW)
            assert not await store.deliveries.has_due(tx, SOON - timedelta(seconds=1))
            assert await store.deliveries.batch_due(tx, SOON - timedelta(seconds=1), 10) == []
            assert await store.deliveries.has_due(tx, SOON)
            assert len(await store.deliveries.batch_due(tx, SOON, 10)) == 1
            assert not await store.deliveries.has_due(tx, SOON)

    async def test_a_retry_recorded_by_a_clock_that_was_ahead_becomes_due(self, store: Store) -> None:
        ahead = NOW + timedelta(hours=25)
        wrong, right = [await create_planned_notification(store, name) for name in ("ana", "ben")]
        for scene, written, until in ((wrong, ahead, ahead + timedelta(seconds=5)), (right, NOW, ahead)):
            async with store.transaction() as tx:
                [due] = await store.deliveries.claim(tx, [scene.batch_id], token=new_id(NOW), now=NOW, lease_until=SOON)
                retry = RetryLater(until, "busy", counts_as_attempt=False)
                await store.deliveries.record(tx, [make_attempt_result(due, retry)], written)
        async with store.transaction() as tx:
            assert not await store.deliveries.has_due(tx, NOW)
            assert await store.deliveries.advance_retries(tx, NOW) == 1, "the other was asked to wait that long"
            assert len(await store.deliveries.batch_due(tx, NOW, 10)) == 1
            assert await store.deliveries.advance_retries(tx, NOW) == 0

    async def test_waking_makes_one_task_for_each_lane(self, store: Store) -> None:
        for lane in (Lane.URGENT, Lane.LOW):
            await self._claim_and_release(
                store, await create_planned_notification(store, f"{lane}-1", f"{lane}-2", lane=lane)
            )
        async with store.transaction() as tx:
            tasks = await store.deliveries.batch_due(tx, NOW, 10)
            assert {(task.lane, task.kind, task.due_at) for task in tasks} == {
                (Lane.URGENT, TaskKind.DELIVER, NOW),
                (Lane.LOW, TaskKind.DELIVER, NOW),
            }
            assert all(task.id == task.ref for task in tasks)
            for task in tasks:
                woken = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=NOW, lease_until=SOON)
                assert {due.user_id for due in woken} == {f"{task.lane}-1", f"{task.lane}-2"}

    async def test_waking_takes_no_more_than_its_limit(self, store: Store) -> None:
        await self._claim_and_release(store, await create_planned_notification(store, *(f"user-{i}" for i in range(5))))
        async with store.transaction() as tx:
            woken = []
            while tasks := await store.deliveries.batch_due(tx, NOW, 2):
                token = new_id(NOW)
                due = await store.deliveries.claim(tx, [tasks[0].ref], token=token, now=NOW, lease_until=SOON)
                woken.append(len(due))
        assert woken == [2, 2, 1]

    async def test_waking_fills_several_batches_of_one_lane_each(self, store: Store) -> None:
        for lane, count in ((Lane.NORMAL, 5), (Lane.LOW, 2)):
            people = [f"{lane}-{number}" for number in range(count)]
            await self._claim_and_release(store, await create_planned_notification(store, *people, lane=lane))
        async with store.transaction() as tx:
            woken = await store.deliveries.batch_due(tx, NOW, 2, max_batches=4)
            sizes = []
            for task in woken:
                due = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=NOW, lease_until=SOON)
                assert {one.user_id.partition("-")[0] for one in due} == {task.lane}
                sizes.append((task.lane, len(due)))
            assert sorted(sizes) == [(Lane.LOW, 2), (Lane.NORMAL, 1), (Lane.NORMAL, 2), (Lane.NORMAL, 2)]
            assert await store.deliveries.batch_due(tx, NOW, 2) == []

    async def test_of_workers_that_wake_at_once_each_row_goes_to_one(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        people = [f"user-{i:03}" for i in range(200)]
        async with store.transaction() as tx:
            planned = [
                make_planned_delivery(scene.notification, one, new_id(NOW), batch_id=scene.batch_id) for one in people
            ]
            await store.deliveries.add(tx, planned, [], NOW)
        await self._claim_and_release(store, scene)

        async def wake() -> list[str]:
            async with store.transaction() as tx:
                return [task.ref for task in await store.deliveries.batch_due(tx, NOW, 100)]

        refs = [ref for woken in await run_concurrently(store, *(wake() for _ in range(6))) for ref in woken]
        async with store.transaction() as tx:
            # a caller that found all rows locked by others has returned; the next round finds the remaining rows
            while tasks := await store.deliveries.batch_due(tx, NOW, 100):
                refs += [task.ref for task in tasks]
            taken = [
                await store.deliveries.claim(tx, [ref], token=new_id(NOW), now=NOW, lease_until=SOON) for ref in refs
            ]
        assert all(taken), "a task of which another took every row was made twice"
        assert sorted(one.user_id for due in taken for one in due) == ["ana", *people]

    async def test_batches_that_wait_are_listed_once_each_in_pages(self, store: Store) -> None:
        scene = await create_planned_notification(store)
        more = [new_id(NOW) for _ in range(4)]
        other = make_notification()
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [other])
            planned = [
                make_planned_delivery(other, user_id, new_id(NOW), batch_id=batch_id, lane=Lane.LOW)
                for batch_id in more
                for user_id in ("ana", "ben")
            ]
            await store.deliveries.add(tx, planned, [], NOW)
        found: list[Task] = []
        after = None
        async with store.read_snapshot() as tx:
            while page := await store.deliveries.list_pending_batches(tx, after=after, limit=2):
                found += page
                after = page[-1].ref
        assert [task.ref for task in found] == sorted([scene.batch_id, *more])
        assert {(task.kind, task.due_at) for task in found} == {(TaskKind.DELIVER, NOW)}
        assert all(task.id == task.ref for task in found), "or a repeat of it is not recognised"
        assert {task.lane for task in found if task.ref != scene.batch_id} == {Lane.LOW}

    async def test_claimed_batches_do_not_wait(self, store: Store) -> None:
        scene = await create_planned_notification(store)
        await scene.claim(store)
        async with store.read_snapshot() as tx:
            assert await store.deliveries.list_pending_batches(tx, after=None, limit=9) == []

    @pytest.mark.parametrize("lane", [Lane.URGENT, Lane.LOW])
    async def test_batches_that_wait_on_one_lane(self, store: Store, lane: Lane) -> None:
        scenes = {
            one: await create_planned_notification(store, "ana", "ben", lane=one) for one in (Lane.LOW, Lane.URGENT)
        }
        async with store.read_snapshot() as tx:
            found = await store.deliveries.list_pending_batches(tx, after=None, limit=9, lane=lane)
            none = await store.deliveries.list_pending_batches(tx, after=None, limit=9, lane=Lane.NORMAL)
        assert [(task.ref, task.lane) for task in found] == [(scenes[lane].batch_id, lane)]
        assert none == []

    async def test_batches_that_were_made_before_an_instant(self, store: Store) -> None:
        old, new = [await self._add_batch(store, at) for at in (NOW + MINUTE, NOW + 3 * MINUTE)]
        assert await self._list_created_before(store, NOW + MINUTE) == []
        assert await self._list_created_before(store, NOW + 2 * MINUTE) == [old]
        assert await self._list_created_before(store, NOW + 4 * MINUTE) == [old, new]

    async def _list_created_before(self, store: Store, before: datetime) -> list[str]:
        async with store.read_snapshot() as tx:
            found = await store.deliveries.list_pending_batches(tx, after=None, limit=9, created_before=before)
        return [task.ref for task in found]

    async def _add_batch(self, store: Store, created_at: datetime) -> str:
        notification, batch_id = make_notification(), make_id_at(created_at)
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [notification])
            planned = [make_planned_delivery(notification, "ana", new_id(NOW), batch_id=batch_id)]
            await store.deliveries.add(tx, planned, [], NOW)
        return batch_id

    async def _claim_and_release(self, store: Store, scene: PlannedNotification) -> None:
        """Claim the planned deliveries and release them in order."""
        await scene.claim(store, token=(token := new_id(NOW)))
        async with store.transaction() as tx:
            await store.deliveries.release_by_token(tx, [token], NOW)
