"""Suite for `ports.store.Deliveries`: crash counts and quarantine."""

from datetime import datetime, timedelta

from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, RetryLater
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import MAX_WORKER_CRASHES, LeaseRelease, Store
from tidings.testing.contracts.samples import (
    LEASE,
    NOW,
    PlannedNotification,
    count_by_state,
    create_planned_notification,
    make_attempt_result,
    make_planned_delivery,
    run_concurrently,
)

SOON = NOW + timedelta(minutes=5)


class CrashesContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_what_is_released_wakes_at_once_and_has_spent_no_attempt(self, store: Store) -> None:
        scene = await create_planned_notification(store)
        await scene.claim(store)
        async with store.transaction() as tx:
            assert await store.deliveries.release_all_leases(tx, SOON) == LeaseRelease(2, 0)
            assert await store.deliveries.has_due(tx, SOON)
            tasks = await store.deliveries.batch_due(tx, SOON, 10)
            refs = [task.ref for task in tasks]
            again = await store.deliveries.claim(tx, refs, token=new_id(NOW), now=SOON, lease_until=SOON + LEASE)
        assert [due.attempts for due in again] == [0, 0]

    async def test_what_a_worker_died_with_is_sent_alone(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben", lane=Lane.LOW)
        await scene.claim(store)
        await self._release_all_leases(store, NOW)
        tasks = await self._batch_due(store, NOW)
        assert [(task.kind, task.lane, task.due_at) for task in tasks] == [(TaskKind.DELIVER_ALONE, Lane.LOW, NOW)] * 2
        assert all(task.id == task.ref for task in tasks)
        sizes = []
        async with store.transaction() as tx:
            for task in tasks:
                due = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=NOW, lease_until=SOON)
                sizes.append(len(due))
        assert sizes == [1, 1]

    async def test_who_was_in_no_crash_does_not_wait_for_those_who_were(self, store: Store) -> None:
        crashed, returned = (
            await create_planned_notification(store, "ana", "ben"),
            await create_planned_notification(store, "cleo", "dan"),
        )
        await crashed.claim(store)
        await self._release_all_leases(store, NOW)
        await returned.claim(store, token=(token := new_id(NOW)))
        async with store.transaction() as tx:
            await store.deliveries.release_by_token(tx, [token], NOW)
        tasks = await self._batch_due(store, NOW)
        assert sorted(task.kind for task in tasks) == ["deliver", "deliver_alone", "deliver_alone"]
        [together] = [task for task in tasks if task.kind is TaskKind.DELIVER]
        assert await self._claim(store, together.ref, NOW) == ["cleo", "dan"]

    async def test_a_delivery_that_workers_keep_dying_of_is_refused(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        now = await self._crash_workers(store, scene, MAX_WORKER_CRASHES)
        assert await count_by_state(store, scene.notification) == {"refused": 1}
        async with store.transaction() as tx:
            assert not await store.deliveries.has_due(tx, now + LEASE)
            assert await store.deliveries.release_all_leases(tx, now + LEASE) == LeaseRelease(0, 0)
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert trace.why == f"quarantined: {MAX_WORKER_CRASHES} workers died while sending it"
        assert trace.updated_at == now

    async def test_one_death_fewer_leaves_it_pending_with_what_was_said_of_it(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.record(tx, [make_attempt_result(due, RetryLater(NOW, "busy"))], NOW)
            await store.deliveries.batch_due(tx, NOW, 9)
        await self._crash_workers(store, scene, MAX_WORKER_CRASHES - 1)
        async with store.read_snapshot() as tx:
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert (trace.state, trace.why) == ("pending", "busy")

    async def test_a_death_that_many_notice_at_once_counts_once(self, store: Store) -> None:
        scene = await create_planned_notification(store, *(f"user-{i}" for i in range(30)))
        await scene.claim(store)

        async def sweep() -> LeaseRelease:
            async with store.transaction() as tx:
                return await store.deliveries.reap_expired_leases(tx, SOON)

        found = await run_concurrently(store, *(sweep() for _ in range(4)))
        assert sum(one.released for one in found) == 30
        assert sum(one.quarantined for one in found) == 0
        assert await count_by_state(store, scene.notification) == {"pending": 30}

    async def test_all_of_a_large_number_are_taken_back(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        token = new_id(NOW)
        async with store.transaction() as tx:
            planned = [
                make_planned_delivery(scene.notification, f"user-{i}", new_id(NOW), batch_id=scene.batch_id)
                for i in range(2500)
            ]
            await store.deliveries.add(tx, planned, [], NOW)
            await store.deliveries.claim(tx, [scene.batch_id], token=token, now=NOW, lease_until=NOW + LEASE)
            assert await store.deliveries.reap_expired_leases(tx, SOON) == LeaseRelease(2501, 0)

    async def test_poison_does_not_take_others_with_it(self, store: Store) -> None:
        poison, others = (
            await create_planned_notification(store, "ana"),
            await create_planned_notification(store, "ben", "cleo"),
        )
        await self._crash_workers(store, poison, MAX_WORKER_CRASHES - 1)
        async with store.transaction() as tx:
            [task] = await store.deliveries.batch_due(tx, SOON, 9)
            await store.deliveries.claim(
                tx, [task.ref, others.batch_id], token=new_id(NOW), now=SOON, lease_until=SOON + LEASE
            )
            assert await store.deliveries.release_all_leases(tx, SOON) == LeaseRelease(released=2, quarantined=1)
        assert await count_by_state(store, others.notification) == {"pending": 2}

    async def test_a_worker_that_stops_in_order_is_no_crash(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        batch_id = scene.batch_id
        for _ in range(MAX_WORKER_CRASHES + 1):
            async with store.transaction() as tx:
                token = new_id(NOW)
                [_] = await store.deliveries.claim(tx, [batch_id], token=token, now=NOW, lease_until=SOON)
                assert await store.deliveries.release_by_token(tx, [token], NOW) == 1
                [task] = await store.deliveries.batch_due(tx, NOW, 9)
                assert task.kind is TaskKind.DELIVER
                batch_id = task.ref

    async def test_a_late_outcome_of_what_was_quarantined_changes_nothing(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        now = await self._crash_workers(store, scene, MAX_WORKER_CRASHES - 1)
        [task] = await self._batch_due(store, now)
        async with store.transaction() as tx:
            [due] = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=now, lease_until=now)
            assert await store.deliveries.reap_expired_leases(tx, now + LEASE) == LeaseRelease(0, 1)
            assert await store.deliveries.record(tx, [make_attempt_result(due, Accepted())], now + LEASE) == 0
        assert await count_by_state(store, scene.notification) == {"refused": 1}

    async def test_what_the_queue_lost_of_it_is_still_to_be_sent_alone(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        await scene.claim(store)
        await self._release_all_leases(store, NOW)
        tasks = await self._batch_due(store, NOW)
        async with store.read_snapshot() as tx:
            assert await store.deliveries.list_pending_batches(tx, after=None, limit=9) == tasks

    async def _crash_workers(self, store: Store, scene: PlannedNotification, times: int) -> datetime:
        """Simulate worker crashes with the pending deliveries, one by one. Returns the time of the last reaping."""
        now = NOW
        for _ in range(times):
            async with store.transaction() as tx:
                waiting = await store.deliveries.list_pending_batches(tx, after=None, limit=9)
                mine = [task.ref for task in waiting if task.ref == scene.batch_id]
                woken = [task.ref for task in await store.deliveries.batch_due(tx, now, 9)]
                refs = mine or woken or [task.ref for task in waiting]
                [_] = await store.deliveries.claim(tx, refs, token=new_id(NOW), now=now, lease_until=now + LEASE)
                now += LEASE + timedelta(seconds=1)
                released = await store.deliveries.reap_expired_leases(tx, now)
                assert released.released + released.quarantined == 1
        return now

    async def _release_all_leases(self, store: Store, now: datetime) -> None:
        async with store.transaction() as tx:
            await store.deliveries.release_all_leases(tx, now)

    async def _batch_due(self, store: Store, now: datetime) -> list[Task]:
        async with store.transaction() as tx:
            return list(await store.deliveries.batch_due(tx, now, 10))

    async def _claim(self, store: Store, batch_id: str, now: datetime) -> list[str]:
        async with store.transaction() as tx:
            due = await store.deliveries.claim(tx, [batch_id], token=new_id(NOW), now=now, lease_until=now + LEASE)
        return sorted(one.user_id for one in due)
