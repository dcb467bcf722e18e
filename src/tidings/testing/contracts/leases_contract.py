"""Suite for `ports.store.Deliveries`, the part that must hold when workers die: claims, leases, fencing, waking up."""

from datetime import timedelta

from tidings.model.ids import new_id
from tidings.model.outcome import Deferred, Delivered
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Store
from tidings.testing.contracts.samples import (
    LEASE,
    NOW,
    Scene,
    a_notification,
    a_planned,
    by_state,
    planned_scene,
    tried,
)

SOON = NOW + timedelta(minutes=5)


class LeasesContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_a_claim_brings_all_that_is_needed_to_send(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store, token=(token := new_id(NOW)))
        assert (due.id, due.notification_id, due.user_id) == (scene.planned[0].id, scene.notification.id, "ana")
        assert due.target == scene.devices[0]
        assert (due.locale, due.timezone, due.preference) == ("en", "UTC", None)
        assert (due.attempts, due.lease_token, due.planned_at, due.cancelled) == (0, token, NOW, False)

    async def test_a_claim_is_exclusive(self, store: Store) -> None:
        scene = await planned_scene(store)
        assert len(await scene.claim(store)) == 2
        assert await scene.claim(store) == []

    async def test_a_claim_takes_the_batches_named_and_no_others(self, store: Store) -> None:
        first, second = await planned_scene(store, "ana"), await planned_scene(store, "ben")
        assert [due.user_id for due in await second.claim(store)] == ["ben"]
        assert await by_state(store, first.notification) == {"pending": 1}

    async def test_a_claim_tells_that_the_notification_was_cancelled(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        async with store.begin() as tx:
            await store.notifications.cancel(tx, scene.notification.id)
        assert [due.cancelled for due in await scene.claim(store)] == [True]

    async def test_a_claim_has_no_target_when_the_device_is_gone(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        async with store.begin() as tx:
            await store.subscriptions.remove(tx, "ana", scene.devices[0].endpoint)
        assert [due.target for due in await scene.claim(store)] == [None]

    async def test_an_outcome_under_another_lease_changes_nothing(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [stalled] = await scene.claim(store)
        before = await self._traced(store, scene)
        async with store.begin() as tx:
            late = tried(stalled, Delivered(), token=new_id(NOW))
            assert await store.deliveries.record(tx, [late], SOON) == 0
        assert await self._traced(store, scene) == before
        assert await by_state(store, scene.notification) == {"sending": 1}

    async def test_a_worker_that_lost_its_lease_cannot_undo_what_the_next_one_did(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [stalled] = await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.release_expired(tx, NOW + LEASE * 2)
            [task] = await store.deliveries.wake_due(tx, NOW + LEASE * 2, 10)
            [due] = await store.deliveries.claim(
                tx, [task.ref], token=new_id(NOW), now=NOW + LEASE * 2, lease_until=NOW + LEASE * 3
            )
            assert await store.deliveries.record(tx, [tried(due, Delivered(), at=SOON)], SOON) == 1
            assert await store.deliveries.record(tx, [tried(stalled, Deferred(SOON, "slow"))], SOON) == 0
        assert await by_state(store, scene.notification) == {"delivered": 1}

    async def test_an_outcome_recorded_twice_counts_once(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        async with store.begin() as tx:
            assert await store.deliveries.record(tx, [tried(due, Delivered())], NOW) == 1
            assert await store.deliveries.record(tx, [tried(due, Delivered())], NOW) == 0
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        assert len(trace.attempts) == 1

    async def test_only_leases_that_ran_out_are_released(self, store: Store) -> None:
        early, late = await planned_scene(store, "ana"), await planned_scene(store, "ben")
        await early.claim(store)
        await late.claim(store, now=NOW + LEASE)
        async with store.begin() as tx:
            assert await store.deliveries.release_expired(tx, NOW + LEASE) == 0
            assert await store.deliveries.release_expired(tx, NOW + LEASE + timedelta(seconds=1)) == 1
        assert await by_state(store, early.notification) == {"pending": 1}
        assert await by_state(store, late.notification) == {"sending": 1}

    async def test_what_is_released_wakes_at_once_and_has_spent_no_attempt(self, store: Store) -> None:
        scene = await planned_scene(store)
        await scene.claim(store)
        async with store.begin() as tx:
            assert await store.deliveries.release_all(tx, SOON) == 2
            assert await store.deliveries.any_due(tx, SOON)
            [task] = await store.deliveries.wake_due(tx, SOON, 10)
            again = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=SOON, lease_until=SOON + LEASE)
        assert [due.attempts for due in again] == [0, 0]

    async def test_give_back_returns_what_is_still_claimed_under_the_tokens(self, store: Store) -> None:
        mine, theirs = await planned_scene(store), await planned_scene(store, "cleo")
        sent, _ = await mine.claim(store, token=(token := new_id(NOW)))
        await theirs.claim(store)
        async with store.begin() as tx:
            await store.deliveries.record(tx, [tried(sent, Delivered())], NOW)
            assert await store.deliveries.give_back(tx, [token], NOW) == 1
        assert await by_state(store, mine.notification) == {"delivered": 1, "pending": 1}
        assert await by_state(store, theirs.notification) == {"sending": 1}

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
        scenes = [await planned_scene(store, f"{lane}-1", f"{lane}-2", lane=lane) for lane in (Lane.URGENT, Lane.LOW)]
        for scene in scenes:
            await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.release_all(tx, NOW)
            tasks = await store.deliveries.wake_due(tx, NOW, 10)
            assert {(task.lane, task.kind, task.due_at) for task in tasks} == {
                (Lane.URGENT, TaskKind.DELIVER, NOW),
                (Lane.LOW, TaskKind.DELIVER, NOW),
            }
            for task in tasks:
                woken = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=NOW, lease_until=SOON)
                assert {due.user_id for due in woken} == {f"{task.lane}-1", f"{task.lane}-2"}

    async def test_waking_takes_no_more_than_its_limit(self, store: Store) -> None:
        scene = await planned_scene(store, *(f"user-{i}" for i in range(5)))
        await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.release_all(tx, NOW)
            woken = []
            while tasks := await store.deliveries.wake_due(tx, NOW, 2):
                token = new_id(NOW)
                due = await store.deliveries.claim(tx, [tasks[0].ref], token=token, now=NOW, lease_until=SOON)
                woken.append(len(due))
        assert woken == [2, 2, 1]

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
        assert {task.lane for task in found if task.ref != scene.batch_id} == {Lane.LOW}

    async def test_claimed_batches_do_not_wait(self, store: Store) -> None:
        scene = await planned_scene(store)
        await scene.claim(store)
        async with store.read() as tx:
            assert await store.deliveries.waiting_batches(tx, after=None, limit=9) == []

    async def _traced(self, store: Store, scene: Scene) -> object:
        async with store.read() as tx:
            traces = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        return [(one.state, one.why, one.due_at, one.updated_at) for one in traces]
