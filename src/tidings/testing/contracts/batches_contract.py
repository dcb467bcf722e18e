"""Suite for `ports.store.Deliveries`, the part that makes tasks: what is due is woken, what a queue lost is found."""

from datetime import datetime, timedelta

import pytest

from tidings.model.ids import new_id
from tidings.model.outcome import Deferred
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Store
from tidings.testing.contracts.samples import (
    NOW,
    Scene,
    a_notification,
    a_planned,
    an_id,
    at_once,
    planned_scene,
    tried,
)

SOON = NOW + timedelta(minutes=5)
MINUTE = timedelta(minutes=1)


class BatchesContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_what_is_deferred_wakes_when_it_is_due_and_not_before(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.record(tx, [tried(due, Deferred(SOON, "busy"))], NOW)
            assert not await store.deliveries.any_due(tx, SOON - timedelta(seconds=1))
            assert await store.deliveries.wake_due(tx, SOON - timedelta(seconds=1), 10) == []
            assert await store.deliveries.any_due(tx, SOON)
            assert len(await store.deliveries.wake_due(tx, SOON, 10)) == 1
            assert not await store.deliveries.any_due(tx, SOON)

    async def test_waking_makes_one_task_for_each_lane(self, store: Store) -> None:
        for lane in (Lane.URGENT, Lane.LOW):
            await self._waiting(store, await planned_scene(store, f"{lane}-1", f"{lane}-2", lane=lane))
        async with store.begin() as tx:
            tasks = await store.deliveries.wake_due(tx, NOW, 10)
            assert {(task.lane, task.kind, task.due_at) for task in tasks} == {
                (Lane.URGENT, TaskKind.DELIVER, NOW),
                (Lane.LOW, TaskKind.DELIVER, NOW),
            }
            assert all(task.id == task.ref for task in tasks)
            for task in tasks:
                woken = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=NOW, lease_until=SOON)
                assert {due.user_id for due in woken} == {f"{task.lane}-1", f"{task.lane}-2"}

    async def test_waking_takes_no_more_than_its_limit(self, store: Store) -> None:
        await self._waiting(store, await planned_scene(store, *(f"user-{i}" for i in range(5))))
        async with store.begin() as tx:
            woken = []
            while tasks := await store.deliveries.wake_due(tx, NOW, 2):
                token = new_id(NOW)
                due = await store.deliveries.claim(tx, [tasks[0].ref], token=token, now=NOW, lease_until=SOON)
                woken.append(len(due))
        assert woken == [2, 2, 1]

    async def test_of_workers_that_wake_at_once_each_row_goes_to_one(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        people = [f"user-{i:03}" for i in range(200)]
        async with store.begin() as tx:
            planned = [a_planned(scene.notification, one, new_id(NOW), batch_id=scene.batch_id) for one in people]
            await store.deliveries.add(tx, planned, [], NOW)
        await self._waiting(store, scene)

        async def wake() -> list[str]:
            async with store.begin() as tx:
                return [task.ref for task in await store.deliveries.wake_due(tx, NOW, 100)]

        refs = [ref for woken in await at_once(store, *(wake() for _ in range(6))) for ref in woken]
        async with store.begin() as tx:
            # who found that others had all of them locked is done, and the next round finds what is left
            while tasks := await store.deliveries.wake_due(tx, NOW, 100):
                refs += [task.ref for task in tasks]
            taken = [
                await store.deliveries.claim(tx, [ref], token=new_id(NOW), now=NOW, lease_until=SOON) for ref in refs
            ]
        assert all(taken), "a task of which another took every row was made twice"
        assert sorted(one.user_id for due in taken for one in due) == ["ana", *people]

    async def test_batches_that_wait_are_listed_once_each_in_pages(self, store: Store) -> None:
        scene = await planned_scene(store)
        more = [new_id(NOW) for _ in range(4)]
        other = a_notification()
        async with store.begin() as tx:
            await store.notifications.add(tx, other)
            planned = [
                a_planned(other, user_id, new_id(NOW), batch_id=batch_id, lane=Lane.LOW)
                for batch_id in more
                for user_id in ("ana", "ben")
            ]
            await store.deliveries.add(tx, planned, [], NOW)
        found: list[Task] = []
        after = None
        async with store.read() as tx:
            while page := await store.deliveries.waiting_batches(tx, after=after, limit=2):
                found += page
                after = page[-1].ref
        assert [task.ref for task in found] == sorted([scene.batch_id, *more])
        assert {(task.kind, task.due_at) for task in found} == {(TaskKind.DELIVER, NOW)}
        assert all(task.id == task.ref for task in found), "or a repeat of it is not recognised"
        assert {task.lane for task in found if task.ref != scene.batch_id} == {Lane.LOW}

    async def test_claimed_batches_do_not_wait(self, store: Store) -> None:
        scene = await planned_scene(store)
        await scene.claim(store)
        async with store.read() as tx:
            assert await store.deliveries.waiting_batches(tx, after=None, limit=9) == []

    @pytest.mark.parametrize("lane", [Lane.URGENT, Lane.LOW])
    async def test_batches_that_wait_on_one_lane(self, store: Store, lane: Lane) -> None:
        scenes = {one: await planned_scene(store, "ana", "ben", lane=one) for one in (Lane.LOW, Lane.URGENT)}
        async with store.read() as tx:
            found = await store.deliveries.waiting_batches(tx, after=None, limit=9, lane=lane)
            none = await store.deliveries.waiting_batches(tx, after=None, limit=9, lane=Lane.NORMAL)
        assert [(task.ref, task.lane) for task in found] == [(scenes[lane].batch_id, lane)]
        assert none == []

    async def test_batches_that_were_made_before_an_instant(self, store: Store) -> None:
        old, new = [await self._batch(store, at) for at in (NOW + MINUTE, NOW + 3 * MINUTE)]
        assert await self._made_before(store, NOW + MINUTE) == []
        assert await self._made_before(store, NOW + 2 * MINUTE) == [old]
        assert await self._made_before(store, NOW + 4 * MINUTE) == [old, new]

    async def _made_before(self, store: Store, before: datetime) -> list[str]:
        async with store.read() as tx:
            found = await store.deliveries.waiting_batches(tx, after=None, limit=9, before=before)
        return [task.ref for task in found]

    async def _batch(self, store: Store, made: datetime) -> str:
        notification, batch_id = a_notification(), an_id(made)
        async with store.begin() as tx:
            await store.notifications.add(tx, notification)
            planned = [a_planned(notification, "ana", new_id(NOW), batch_id=batch_id)]
            await store.deliveries.add(tx, planned, [], NOW)
        return batch_id

    async def _waiting(self, store: Store, scene: Scene) -> None:
        """Let the rows of a scene wait in the database: claimed, and given back in order."""
        await scene.claim(store, token=(token := new_id(NOW)))
        async with store.begin() as tx:
            await store.deliveries.give_back(tx, [token], NOW)
