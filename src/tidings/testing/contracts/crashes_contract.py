"""Suite for `ports.store.Deliveries`, the part about what workers die of: crashes are counted, poison is put aside."""

from datetime import datetime, timedelta

from tidings.model.ids import new_id
from tidings.model.outcome import Deferred, Delivered
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import MAX_CRASHES, Released, Store
from tidings.testing.contracts.samples import LEASE, NOW, Scene, a_planned, at_once, by_state, planned_scene, tried

SOON = NOW + timedelta(minutes=5)


class CrashesContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_what_is_released_wakes_at_once_and_has_spent_no_attempt(self, store: Store) -> None:
        scene = await planned_scene(store)
        await scene.claim(store)
        async with store.begin() as tx:
            assert await store.deliveries.release_all(tx, SOON) == Released(2, 0)
            assert await store.deliveries.any_due(tx, SOON)
            tasks = await store.deliveries.wake_due(tx, SOON, 10)
            refs = [task.ref for task in tasks]
            again = await store.deliveries.claim(tx, refs, token=new_id(NOW), now=SOON, lease_until=SOON + LEASE)
        assert [due.attempts for due in again] == [0, 0]

    async def test_what_a_worker_died_with_is_sent_alone(self, store: Store) -> None:
        scene = await planned_scene(store, "ana", "ben", lane=Lane.LOW)
        await scene.claim(store)
        await self._release(store, NOW)
        tasks = await self._wake(store, NOW)
        assert [(task.kind, task.lane, task.due_at) for task in tasks] == [(TaskKind.DELIVER_ALONE, Lane.LOW, NOW)] * 2
        assert all(task.id == task.ref for task in tasks)
        sizes = []
        async with store.begin() as tx:
            for task in tasks:
                due = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=NOW, lease_until=SOON)
                sizes.append(len(due))
        assert sizes == [1, 1]

    async def test_who_was_in_no_crash_does_not_wait_for_those_who_were(self, store: Store) -> None:
        crashed, returned = await planned_scene(store, "ana", "ben"), await planned_scene(store, "cleo", "dan")
        await crashed.claim(store)
        await self._release(store, NOW)
        await returned.claim(store, token=(token := new_id(NOW)))
        async with store.begin() as tx:
            await store.deliveries.give_back(tx, [token], NOW)
        tasks = await self._wake(store, NOW)
        assert sorted(task.kind for task in tasks) == ["deliver", "deliver_alone", "deliver_alone"]
        [together] = [task for task in tasks if task.kind is TaskKind.DELIVER]
        assert await self._claim(store, together.ref, NOW) == ["cleo", "dan"]

    async def test_a_delivery_that_workers_keep_dying_of_is_refused(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        now = await self._died(store, scene, MAX_CRASHES)
        assert await by_state(store, scene.notification) == {"refused": 1}
        async with store.begin() as tx:
            assert not await store.deliveries.any_due(tx, now + LEASE)
            assert await store.deliveries.release_all(tx, now + LEASE) == Released(0, 0)
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        assert trace.why == f"quarantined: {MAX_CRASHES} workers died while sending it"
        assert trace.updated_at == now

    async def test_one_death_fewer_leaves_it_pending_with_what_was_said_of_it(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.record(tx, [tried(due, Deferred(NOW, "busy"))], NOW)
            await store.deliveries.wake_due(tx, NOW, 9)
        await self._died(store, scene, MAX_CRASHES - 1)
        async with store.read() as tx:
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        assert (trace.state, trace.why) == ("pending", "busy")

    async def test_a_death_that_many_notice_at_once_counts_once(self, store: Store) -> None:
        scene = await planned_scene(store, *(f"user-{i}" for i in range(30)))
        await scene.claim(store)

        async def sweep() -> Released:
            async with store.begin() as tx:
                return await store.deliveries.release_expired(tx, SOON)

        found = await at_once(store, *(sweep() for _ in range(4)))
        assert sum(one.given_back for one in found) == 30
        assert sum(one.quarantined for one in found) == 0
        assert await by_state(store, scene.notification) == {"pending": 30}

    async def test_all_of_a_large_number_are_taken_back(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        token = new_id(NOW)
        async with store.begin() as tx:
            planned = [
                a_planned(scene.notification, f"user-{i}", new_id(NOW), batch_id=scene.batch_id) for i in range(2500)
            ]
            await store.deliveries.add(tx, planned, [], NOW)
            await store.deliveries.claim(tx, [scene.batch_id], token=token, now=NOW, lease_until=NOW + LEASE)
            assert await store.deliveries.release_expired(tx, SOON) == Released(2501, 0)

    async def test_poison_does_not_take_others_with_it(self, store: Store) -> None:
        poison, others = await planned_scene(store, "ana"), await planned_scene(store, "ben", "cleo")
        await self._died(store, poison, MAX_CRASHES - 1)
        async with store.begin() as tx:
            [task] = await store.deliveries.wake_due(tx, SOON, 9)
            await store.deliveries.claim(
                tx, [task.ref, others.batch_id], token=new_id(NOW), now=SOON, lease_until=SOON + LEASE
            )
            assert await store.deliveries.release_all(tx, SOON) == Released(given_back=2, quarantined=1)
        assert await by_state(store, others.notification) == {"pending": 2}

    async def test_a_worker_that_stops_in_order_is_no_crash(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        batch_id = scene.batch_id
        for _ in range(MAX_CRASHES + 1):
            async with store.begin() as tx:
                token = new_id(NOW)
                [_] = await store.deliveries.claim(tx, [batch_id], token=token, now=NOW, lease_until=SOON)
                assert await store.deliveries.give_back(tx, [token], NOW) == 1
                [task] = await store.deliveries.wake_due(tx, NOW, 9)
                assert task.kind is TaskKind.DELIVER
                batch_id = task.ref

    async def test_a_late_outcome_of_what_was_quarantined_changes_nothing(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        now = await self._died(store, scene, MAX_CRASHES - 1)
        [task] = await self._wake(store, now)
        async with store.begin() as tx:
            [due] = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=now, lease_until=now)
            assert await store.deliveries.release_expired(tx, now + LEASE) == Released(0, 1)
            assert await store.deliveries.record(tx, [tried(due, Delivered())], now + LEASE) == 0
        assert await by_state(store, scene.notification) == {"refused": 1}

    async def test_what_the_queue_lost_of_it_is_still_to_be_sent_alone(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        await scene.claim(store)
        await self._release(store, NOW)
        tasks = await self._wake(store, NOW)
        async with store.read() as tx:
            assert await store.deliveries.waiting_batches(tx, after=None, limit=9) == tasks

    async def _died(self, store: Store, scene: Scene, times: int) -> datetime:
        """Let workers die with what is pending, one after the other. Returns when the last lease was taken back."""
        now = NOW
        for _ in range(times):
            async with store.begin() as tx:
                waiting = await store.deliveries.waiting_batches(tx, after=None, limit=9)
                mine = [task.ref for task in waiting if task.ref == scene.batch_id]
                woken = [task.ref for task in await store.deliveries.wake_due(tx, now, 9)]
                refs = mine or woken or [task.ref for task in waiting]
                [_] = await store.deliveries.claim(tx, refs, token=new_id(NOW), now=now, lease_until=now + LEASE)
                now += LEASE + timedelta(seconds=1)
                released = await store.deliveries.release_expired(tx, now)
                assert released.given_back + released.quarantined == 1
        return now

    async def _release(self, store: Store, now: datetime) -> None:
        async with store.begin() as tx:
            await store.deliveries.release_all(tx, now)

    async def _wake(self, store: Store, now: datetime) -> list[Task]:
        async with store.begin() as tx:
            return list(await store.deliveries.wake_due(tx, now, 10))

    async def _claim(self, store: Store, batch_id: str, now: datetime) -> list[str]:
        async with store.begin() as tx:
            due = await store.deliveries.claim(tx, [batch_id], token=new_id(NOW), now=now, lease_until=now + LEASE)
        return sorted(one.user_id for one in due)
