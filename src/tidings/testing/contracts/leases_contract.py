"""Suite for `ports.store.Deliveries`: claims, leases and fencing tokens."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from tidings.model.delivery import ClaimedDelivery
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, RetryLater
from tidings.model.preference import ANY, Condition, Operator, Preference
from tidings.ports.store import LeaseRelease, Store
from tidings.testing.contracts.samples import (
    LEASE,
    NOW,
    PlannedNotification,
    count_by_state,
    create_planned_notification,
    make_attempt_result,
    make_notification,
    run_concurrently,
)

SOON = NOW + timedelta(minutes=5)


class LeasesContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_claim_brings_all_that_is_needed_to_send(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store, token=(token := new_id(NOW)))
        assert (due.id, due.notification_id, due.user_id) == (scene.planned[0].id, scene.notification.id, "ana")
        assert due.target == scene.devices[0]
        assert (due.locale, due.timezone, due.preferences) == ("en", "UTC", ())
        assert (due.attempts, due.lease_token, due.created_at, due.is_cancelled) == (0, token, NOW, False)

    async def test_c23_a_claim_and_a_reload_bring_the_preferences_that_may_apply(self, store: Store) -> None:
        notification = replace(make_notification(), subject="event:9/message:1", subject_version=1)
        scene = await create_planned_notification(store, "ana", "ben", notification=notification)
        applying = [
            Preference(ANY, ANY, False, "event:9"),
            Preference(ANY, "webpush", True),
            Preference("NEWS", ANY, True, condition=Condition("amount", Operator.GREATER, 5)),
            Preference("NEWS", "webpush", True, "event:9/message:1"),
        ]
        others = [
            Preference("NEWS", "email", False),
            Preference("ORDERS", "webpush", False),
            Preference("NEWS", "webpush", False, "event:90"),
            Preference("NEWS", "webpush", False, "event:9/message:10"),
        ]
        async with store.transaction() as tx:
            await store.users.set_preferences(tx, "ana", [*applying, *others])
        [ana, ben] = claimed = await scene.claim(store)
        assert set(ana.preferences) == set(applying)
        assert (ben.user_id, ben.preferences) == ("ben", ())
        async with store.transaction() as tx:
            await store.users.remove_preferences(tx, "ana", applying[1:])
        async with store.read_snapshot() as tx:
            again = await store.deliveries.reload(tx, claimed)
        assert [one.preferences for one in again] == [(applying[0],), ()]
        assert [one.lease_token for one in again] == [ana.lease_token, ben.lease_token]

    async def test_a_claim_is_exclusive(self, store: Store) -> None:
        scene = await create_planned_notification(store)
        assert len(await scene.claim(store)) == 2
        assert await scene.claim(store) == []

    async def test_a_claim_takes_the_batches_named_and_no_others(self, store: Store) -> None:
        first, second = await create_planned_notification(store, "ana"), await create_planned_notification(store, "ben")
        assert [due.user_id for due in await second.claim(store)] == ["ben"]
        assert await count_by_state(store, first.notification) == {"pending": 1}

    async def test_a_claim_tells_that_the_notification_was_cancelled(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        async with store.transaction() as tx:
            await store.notifications.cancel(tx, scene.notification.id)
        assert [due.is_cancelled for due in await scene.claim(store)] == [True]

    async def test_a_claim_has_no_target_when_the_device_is_gone(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        async with store.transaction() as tx:
            await store.subscriptions.remove(tx, "ana", scene.devices[0].endpoint)
        assert [due.target for due in await scene.claim(store)] == [None]

    async def test_an_outcome_under_another_lease_changes_nothing(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [stalled] = await scene.claim(store)
        before = await self._read_traces(store, scene)
        async with store.transaction() as tx:
            late = make_attempt_result(stalled, Accepted(), token=new_id(NOW))
            assert await store.deliveries.record(tx, [late], SOON) == 0
        assert await self._read_traces(store, scene) == before
        assert await count_by_state(store, scene.notification) == {"sending": 1}

    async def test_a_worker_that_lost_its_lease_cannot_undo_what_the_next_one_did(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [stalled] = await scene.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.reap_expired_leases(tx, NOW + LEASE * 2)
            [task] = await store.deliveries.batch_due(tx, NOW + LEASE * 2, 10)
            [due] = await store.deliveries.claim(
                tx, [task.ref], token=new_id(NOW), now=NOW + LEASE * 2, lease_until=NOW + LEASE * 3
            )
            assert await store.deliveries.record(tx, [make_attempt_result(due, Accepted(), at=SOON)], SOON) == 1
            assert (
                await store.deliveries.record(tx, [make_attempt_result(stalled, RetryLater(SOON, "slow"))], SOON) == 0
            )
        assert await count_by_state(store, scene.notification) == {"delivered": 1}

    async def test_an_outcome_recorded_twice_counts_once(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            assert await store.deliveries.record(tx, [make_attempt_result(due, Accepted())], NOW) == 1
            assert await store.deliveries.record(tx, [make_attempt_result(due, Accepted())], NOW) == 0
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert len(trace.attempts) == 1

    async def test_only_leases_that_ran_out_are_released(self, store: Store) -> None:
        early, late = await create_planned_notification(store, "ana"), await create_planned_notification(store, "ben")
        await early.claim(store)
        await late.claim(store, now=NOW + LEASE)
        async with store.transaction() as tx:
            assert await store.deliveries.reap_expired_leases(tx, NOW + LEASE) == LeaseRelease(0, 0)
            assert await store.deliveries.reap_expired_leases(tx, NOW + LEASE + timedelta(seconds=1)) == LeaseRelease(
                1, 0
            )
        assert await count_by_state(store, early.notification) == {"pending": 1}
        assert await count_by_state(store, late.notification) == {"sending": 1}

    async def test_give_back_returns_what_is_still_claimed_under_the_tokens(self, store: Store) -> None:
        mine, theirs = await create_planned_notification(store), await create_planned_notification(store, "cleo")
        sent, _ = await mine.claim(store, token=(token := new_id(NOW)))
        await theirs.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.record(tx, [make_attempt_result(sent, Accepted())], NOW)
            assert await store.deliveries.release_by_token(tx, [token], NOW) == 1
        assert await count_by_state(store, mine.notification) == {"delivered": 1, "pending": 1}
        assert await count_by_state(store, theirs.notification) == {"sending": 1}

    async def test_of_workers_that_claim_the_same_batches_each_row_goes_to_one(self, store: Store) -> None:
        scenes = [await create_planned_notification(store, *(f"user-{i}-{j}" for j in range(4))) for i in range(5)]
        batch_ids = [scene.batch_id for scene in scenes]

        async def claim(turn: int) -> list[str]:
            async with store.transaction() as tx:
                # each in a different order, so that their locks meet in the middle
                wanted = batch_ids[turn:] + batch_ids[:turn]
                due = await store.deliveries.claim(tx, wanted, token=new_id(NOW), now=NOW, lease_until=NOW + LEASE)
            return [one.id for one in due]

        taken = [one for got in await run_concurrently(store, *(claim(turn) for turn in range(5))) for one in got]
        assert sorted(taken) == sorted(one.id for scene in scenes for one in scene.planned)

    async def test_a_cancellation_waits_for_claims_that_may_not_have_seen_it(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")

        async def cancel() -> dict[str, int]:
            async with store.transaction() as tx:
                await store.notifications.cancel(tx, scene.notification.id)
            return await count_by_state(store, scene.notification)

        async with store.transaction() as tx:
            [due] = await store.deliveries.claim(
                tx, [scene.batch_id], token=new_id(NOW), now=NOW, lease_until=NOW + LEASE
            )
            assert not due.is_cancelled
            cancelling = asyncio.create_task(cancel())
            for _ in range(20):
                # more round trips to the database than necessary
                await store.ping()
            assert not cancelling.done()
        assert await cancelling == {"sending": 1}, "whoever cancels sees that it is being sent"

    async def test_an_outcome_that_meets_the_end_of_its_lease_counts_or_is_fenced(self, store: Store) -> None:
        for late in (False, True) * 5:
            scene = await create_planned_notification(store, "ana")
            [due] = await scene.claim(store)

            async def record(due: ClaimedDelivery = due) -> int:
                async with store.transaction() as tx:
                    return await store.deliveries.record(tx, [make_attempt_result(due, Accepted())], SOON)

            async def release() -> LeaseRelease:
                async with store.transaction() as tx:
                    return await store.deliveries.reap_expired_leases(tx, SOON)

            recorded, released = (
                (await asyncio.gather(release(), record()))[::-1] if late else await asyncio.gather(record(), release())
            )
            assert (recorded, released) in ((1, LeaseRelease(0, 0)), (0, LeaseRelease(1, 0)))
            assert await count_by_state(store, scene.notification) == {"delivered" if recorded else "pending": 1}

    async def _read_traces(self, store: Store, scene: PlannedNotification) -> object:
        async with store.read_snapshot() as tx:
            traces = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        return [(one.state, one.why, one.due_at, one.updated_at) for one in traces]
