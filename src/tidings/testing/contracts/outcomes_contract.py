"""Suite for `ports.store.Deliveries`, the part that people ask about: what is recorded, and how it reads back."""

from datetime import timedelta

import pytest
from msgspec import structs

from tidings.model.delivery import DeliveryState, Planned, Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
from tidings.model.subscription import SubscriptionState
from tidings.model.trace import SkipTrace
from tidings.ports.store import Store
from tidings.testing.contracts.samples import (
    NOW,
    a_notification,
    a_planned,
    by_state,
    planned_scene,
    reachable,
    tried,
)

SOON = NOW + timedelta(minutes=5)


class OutcomesContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    @pytest.mark.parametrize(
        ("outcome", "state", "why"),
        [
            (Delivered(status=201), DeliveryState.DELIVERED, "accepted by the provider"),
            (Deferred(SOON, "busy", 503), DeliveryState.PENDING, "busy"),
            (Refused("too large", 413), DeliveryState.REFUSED, "too large"),
            (Refused("came too late", expired=True), DeliveryState.EXPIRED, "came too late"),
            (Gone("unsubscribed", 410), DeliveryState.GONE, "unsubscribed"),
            (Gone("key rejected", 403, "rebind"), DeliveryState.GONE, "key rejected"),
        ],
    )
    async def test_an_outcome_becomes_a_state_with_its_try(
        self, store: Store, outcome: Outcome, state: DeliveryState, why: str
    ) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        async with store.begin() as tx:
            assert await store.deliveries.record(tx, [tried(due, outcome)], SOON) == 1
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        assert (trace.state, trace.why, trace.updated_at) == (state, why, SOON)
        [attempt] = trace.attempts
        assert (attempt.number, attempt.outcome, attempt.why) == (1, type(outcome).__name__.lower(), why)
        assert (attempt.status, attempt.started_at) == (outcome.status, NOW)
        assert attempt.finished_at == NOW + timedelta(seconds=1)

    @pytest.mark.parametrize(
        ("reason", "state"),
        [
            (SkipReason.PREFERENCE_OFF, DeliveryState.SKIPPED),
            (SkipReason.LEFT_AUDIENCE, DeliveryState.SKIPPED),
            (SkipReason.CANCELLED, DeliveryState.CANCELLED),
        ],
    )
    async def test_a_skip_just_before_sending_ends_the_delivery_without_a_try(
        self, store: Store, reason: SkipReason, state: DeliveryState
    ) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        skipped = Skipped(scene.notification.id, "ana", "webpush", reason)
        async with store.begin() as tx:
            assert await store.deliveries.record(tx, [tried(due, skipped)], NOW) == 1
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        assert (trace.state, trace.why, trace.attempts) == (state, reason.value, [])

    @pytest.mark.parametrize(("spends", "left"), [(True, 1), (False, 0)])
    async def test_waiting_as_the_provider_asked_spends_no_attempt(self, store: Store, spends: bool, left: int) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.record(tx, [tried(due, Deferred(SOON, "busy", spends_attempt=spends))], NOW)
            [task] = await store.deliveries.wake_due(tx, SOON, 10)
            [again] = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=SOON, lease_until=SOON)
        assert again.attempts == left

    @pytest.mark.parametrize(
        ("outcome", "state"),
        [(Gone("410"), SubscriptionState.GONE), (Gone("403", 403, "rebind"), SubscriptionState.REBIND)],
    )
    async def test_a_dead_target_is_not_used_again_and_the_users_other_device_is(
        self, store: Store, outcome: Gone, state: SubscriptionState
    ) -> None:
        scene = await planned_scene(store, "ana", "ben")
        dead, _ = await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.record(tx, [tried(dead, outcome)], NOW)
            [device] = await store.subscriptions.of_user(tx, "ana")
            assert device.state is state
            assert await reachable(store, tx, "ana", "ben") == {("ben", scene.devices[1].id)}

    async def test_outcomes_of_a_batch_are_recorded_together(self, store: Store) -> None:
        scene = await planned_scene(store, "ana", "ben", "cleo")
        ana, ben, cleo = await scene.claim(store)
        late = tried(cleo, Delivered(), token=new_id(NOW))
        async with store.begin() as tx:
            outcomes = [tried(ana, Delivered()), tried(ben, Refused("no")), late]
            assert await store.deliveries.record(tx, outcomes, NOW) == 2
            assert await store.deliveries.record(tx, [], NOW) == 0
        assert await by_state(store, scene.notification) == {"delivered": 1, "refused": 1, "sending": 1}

    async def test_the_outcome_of_a_user_erased_meanwhile_holds_up_nobody_else(self, store: Store) -> None:
        scene = await planned_scene(store, "ana", "ben")
        ana, ben = await scene.claim(store)
        async with store.begin() as tx:
            await store.users.erase(tx, "ana")
        async with store.begin() as tx:
            assert await store.deliveries.record(tx, [tried(ana, Delivered()), tried(ben, Delivered())], NOW) == 1
        assert await by_state(store, scene.notification) == {"delivered": 1}

    async def test_a_long_reason_is_cut(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        async with store.begin() as tx:
            await store.deliveries.record(tx, [tried(due, Refused("x" * 5000))], NOW)
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        assert trace.why == trace.attempts[0].why == "x" * 300

    async def test_a_reason_may_have_any_character(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        [due] = await scene.claim(store)
        async with store.begin() as tx:
            assert await store.deliveries.record(tx, [tried(due, Refused('Grüße "\\u0000"\n\0 🎷'))], NOW) == 1
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id=None, after=None, limit=9)
        assert trace.why == trace.attempts[0].why == 'Grüße "\\u0000"\n\N{REPLACEMENT CHARACTER} 🎷'

    async def test_a_trace_names_the_device_and_the_rule(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        async with store.read() as tx:
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id="ana", after=None, limit=9)
        assert trace.target_label == "Firefox on Linux at push.example"
        assert (trace.rule, trace.state, trace.due_at, trace.created_at) == ("on by default", "pending", NOW, NOW)

    async def test_a_trace_does_not_show_a_device_that_has_a_new_owner(self, store: Store) -> None:
        scene = await planned_scene(store, "ana", "ben")
        moved = scene.devices[0]
        async with store.begin() as tx:
            new_owner = structs.replace(moved, user_id="ben", id=new_id(NOW))
            await store.subscriptions.register(tx, new_owner, replaces=None, now=NOW)
            [trace] = await store.deliveries.trace(tx, scene.notification.id, user_id="ana", after=None, limit=9)
        assert trace.target_label is None

    async def test_traces_are_read_in_pages_and_by_user(self, store: Store) -> None:
        scene = await planned_scene(store, "ana")
        other = a_notification()
        async with store.begin() as tx:
            await store.notifications.add(tx, other)
            planned = [
                a_planned(other, user_id, new_id(NOW), batch_id=scene.batch_id)
                for user_id in ("ben", "ana", "ben", "cleo", "ana")
            ]
            await store.deliveries.add(tx, planned, [], NOW)
        assert await self._trace_ids(store, other.id, None) == [one.id for one in planned]
        assert await self._trace_ids(store, other.id, "ana") == [planned[1].id, planned[4].id]
        assert await self._trace_ids(store, other.id, "nobody") == []

    async def test_skips_are_kept_with_their_reason_and_read_in_pages(self, store: Store) -> None:
        notification, nobody = a_notification(), list[Planned]()
        detail = {"category": "NEWS", "limit": 3, "deep": {"é": [None, True, 'a "b"']}}
        skipped = [
            Skipped(notification.id, user_id, channel, SkipReason.NO_DEVICE, detail)
            for user_id in ("ben", "ana", "cleo")
            for channel in ("email", "webpush")
        ]
        async with store.begin() as tx:
            await store.notifications.add(tx, notification)
            await store.deliveries.add(tx, nobody, skipped, NOW)
        found: list[SkipTrace] = []
        after = None
        async with store.read() as tx:
            while page := await store.deliveries.skips(tx, notification.id, user_id=None, after=after, limit=4):
                found += page
                after = page[-1].id
            anas = await store.deliveries.skips(tx, notification.id, user_id="ana", after=None, limit=4)
        assert [(one.user_id, one.channel) for one in found] == [(one.user_id, one.channel) for one in skipped]
        assert {(one.reason, one.created_at) for one in found} == {(SkipReason.NO_DEVICE, NOW)}
        assert all(one.detail == detail for one in found)
        assert [(one.user_id, one.channel) for one in anas] == [("ana", "email"), ("ana", "webpush")]

    async def _trace_ids(self, store: Store, notification_id: str, user_id: str | None) -> list[str]:
        found: list[str] = []
        after = None
        async with store.read() as tx:
            while page := await store.deliveries.trace(tx, notification_id, user_id=user_id, after=after, limit=2):
                found += [trace.id for trace in page]
                after = page[-1].id
        return found
