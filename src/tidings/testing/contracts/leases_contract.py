"""Suite for `ports.store.Deliveries`, the part that must hold when workers die: claims, leases, fencing."""

import asyncio
from datetime import timedelta

from tidings.model.delivery import Due
from tidings.model.ids import new_id
from tidings.model.outcome import Deferred, Delivered
from tidings.ports.store import Released, Store
from tidings.testing.contracts.samples import (
    LEASE,
    NOW,
    Scene,
    at_once,
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
            assert await store.deliveries.release_expired(tx, NOW + LEASE) == Released(0, 0)
            assert await store.deliveries.release_expired(tx, NOW + LEASE + timedelta(seconds=1)) == Released(1, 0)
        assert await by_state(store, early.notification) == {"pending": 1}
        assert await by_state(store, late.notification) == {"sending": 1}

    async def test_give_back_returns_what_is_still_claimed_under_the_tokens(self, store: Store) -> None:
        mine, theirs = await planned_scene(store), await planned_scene(store, "cleo")
        sent, _ = await mine.claim(store, token=(token := new_id(NOW)))
        await theirs.claim(store)
        async with store.begin() as tx:
            await store.deliveries.record(tx, [tried(sent, Delivered())], NOW)
            assert await store.deliveries.give_back(tx, [token], NOW) == 1
        assert await by_state(store, mine.notification) == {"delivered": 1, "pending": 1}
        assert await by_state(store, theirs.notification) == {"sending": 1}

    async def test_of_workers_that_claim_the_same_batches_each_row_goes_to_one(self, store: Store) -> None:
        scenes = [await planned_scene(store, *(f"user-{i}-{j}" for j in range(4))) for i in range(5)]
        batch_ids = [scene.batch_id for scene in scenes]

        async def claim(turn: int) -> list[str]:
            async with store.begin() as tx:
                # each in another order, so that two of them meet in the middle
                wanted = batch_ids[turn:] + batch_ids[:turn]
                due = await store.deliveries.claim(tx, wanted, token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
            return [one.id for one in due]

        taken = [one for got in await at_once(store, *(claim(turn) for turn in range(5))) for one in got]
        assert sorted(taken) == sorted(one.id for scene in scenes for one in scene.planned)

    async def test_a_cancellation_waits_for_claims_that_may_not_have_seen_it(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")

        async def cancel() -> dict[str, int]:
            async with store.begin() as tx:
                await store.notifications.cancel(tx, scene.notification.id)
            return await by_state(store, scene.notification)

        async with store.begin() as tx:
            [due] = await store.deliveries.claim(
                tx, [scene.batch_id], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE
            )
            assert not due.cancelled
            cancelling = asyncio.create_task(cancel())
            for _ in range(20):
                # more trips to the database than it would need
                await store.ping()
            assert not cancelling.done()
        assert await cancelling == {"sending": 1}, "whoever cancels sees that it is being sent"

    async def test_an_outcome_that_meets_the_end_of_its_lease_counts_or_is_fenced(self, store: Store) -> None:
        for late in (False, True) * 5:
            scene = await planned_scene(store, "ana")
            [due] = await scene.claim(store)

            async def record(due: Due = due) -> int:
                async with store.begin() as tx:
                    return await store.deliveries.record(tx, [tried(due, Delivered())], SOON)

            async def release() -> Released:
                async with store.begin() as tx:
                    return await store.deliveries.release_expired(tx, SOON)

            recorded, released = (
                (await asyncio.gather(release(), record()))[::-1] if late else await asyncio.gather(record(), release())
            )
            assert (recorded, released) in ((1, Released(0, 0)), (0, Released(1, 0)))
            assert await by_state(store, scene.notification) == {"delivered" if recorded else "pending": 1}

    async def _traced(self, store: Store, scene: Scene) -> object:
        async with store.read() as tx:
            traces = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        return [(one.state, one.why, one.due_at, one.updated_at) for one in traces]
