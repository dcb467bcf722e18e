"""Suite for `ports.store.Deliveries`: recording outcomes and reading them back."""

from datetime import timedelta
from typing import Literal

import pytest
from msgspec import structs

from tidings.model.delivery import DeliveryState, PlannedDelivery, SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.model.subscription import PushSubscription, SubscriptionState
from tidings.model.trace import SkipTrace
from tidings.ports.store import Store
from tidings.testing.contracts.samples import (
    NOW,
    count_by_state,
    create_planned_notification,
    list_reachable_devices,
    make_attempt_result,
    make_notification,
    make_planned_delivery,
    make_subscription,
)

SOON = NOW + timedelta(minutes=5)


class OutcomesContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    @pytest.mark.parametrize(
        ("outcome", "state", "why"),
        [
            (Accepted(status=201), DeliveryState.DELIVERED, "accepted by the provider"),
            (RetryLater(SOON, "busy", 503), DeliveryState.PENDING, "busy"),
            (PermanentFailure("too large", 413), DeliveryState.REFUSED, "too large"),
            (PermanentFailure("came too late", is_expired=True), DeliveryState.EXPIRED, "came too late"),
            (InvalidTarget("unsubscribed", 410), DeliveryState.GONE, "unsubscribed"),
            (InvalidTarget("key rejected", 403, "rebind"), DeliveryState.GONE, "key rejected"),
        ],
    )
    async def test_an_outcome_becomes_a_state_with_its_try(
        self, store: Store, outcome: Outcome, state: DeliveryState, why: str
    ) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            assert await store.deliveries.record(tx, [make_attempt_result(due, outcome)], SOON) == 1
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert (trace.state, trace.why, trace.updated_at) == (state, why, SOON)
        [attempt] = trace.attempts
        assert (attempt.number, attempt.outcome, attempt.why) == (1, outcome.label, why)
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
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        skipped = SkipRecord(scene.notification.id, "ana", "webpush", reason)
        async with store.transaction() as tx:
            assert await store.deliveries.record(tx, [make_attempt_result(due, skipped)], NOW) == 1
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert (trace.state, trace.why, trace.attempts) == (state, reason.value, [])
        assert trace.detail == {}

    async def test_a_skip_just_before_sending_keeps_the_inputs_of_the_decision(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben")
        ana, ben = await scene.claim(store)
        detail = {"template": "NEWS", "error": "needs a\0b", "tried": [1, None], "long": "x" * 1_000}
        skipped = SkipRecord(scene.notification.id, "ana", "webpush", SkipReason.RENDER_FAILED, detail)
        async with store.transaction() as tx:
            assert (
                await store.deliveries.record(
                    tx, [make_attempt_result(ana, skipped), make_attempt_result(ben, Accepted())], NOW
                )
                == 2
            )
            first, second = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert (first.why, second.detail) == ("render_failed", {})
        assert {name: first.detail[name] for name in ("template", "tried")} == {"template": "NEWS", "tried": [1, None]}
        # displayed errors are truncated, and PostgreSQL rejects NUL in text
        assert first.detail["error"] == "needs a\N{REPLACEMENT CHARACTER}b"
        assert len(str(first.detail["long"])) < 1_000

    @pytest.mark.parametrize(("spends", "left"), [(True, 1), (False, 0)])
    async def test_waiting_as_the_provider_asked_spends_no_attempt(self, store: Store, spends: bool, left: int) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.record(
                tx, [make_attempt_result(due, RetryLater(SOON, "busy", counts_as_attempt=spends))], NOW
            )
            [task] = await store.deliveries.batch_due(tx, SOON, 10)
            [again] = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=SOON, lease_until=SOON)
        assert again.attempts == left

    @pytest.mark.parametrize(
        ("outcome", "state"),
        [
            (InvalidTarget("410"), SubscriptionState.GONE),
            (InvalidTarget("403", 403, "rebind"), SubscriptionState.REBIND),
        ],
    )
    async def test_a_dead_target_is_not_used_again_and_the_users_other_device_is(
        self, store: Store, outcome: InvalidTarget, state: SubscriptionState
    ) -> None:
        scene = await create_planned_notification(store, "ana", "ben")
        dead, _ = await scene.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.record(tx, [make_attempt_result(dead, outcome)], NOW)
            [device] = await store.subscriptions.list_by_user(tx, "ana")
            assert device.state is state
            assert await list_reachable_devices(store, tx, "ana", "ben") == {("ben", scene.devices[1].id)}

    @pytest.mark.parametrize("action", ["delete", "rebind"])
    async def test_the_end_of_an_endpoint_does_not_apply_to_a_registration_after_the_send(
        self, store: Store, action: Literal["delete", "rebind"]
    ) -> None:
        scene = await create_planned_notification(store, "ana")
        [tried] = await scene.claim(store)
        fresh = make_subscription("ana", new_id(NOW))
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, fresh, replaces=scene.devices[0].endpoint, now=NOW)
            ended = make_attempt_result(tried, InvalidTarget("gone", 410, action))
            assert await store.deliveries.record(tx, [ended], NOW) == 1
            [device] = await store.subscriptions.list_by_user(tx, "ana")
        assert (device.endpoint, device.state) == (fresh.endpoint, SubscriptionState.ACTIVE)

    @pytest.mark.parametrize("is_registered_already", [False, True])
    async def test_a_waiting_delivery_follows_the_successor_of_its_device(
        self, store: Store, is_registered_already: bool
    ) -> None:
        scene = await create_planned_notification(store, "ana")
        [tried] = await scene.claim(store)
        fresh = make_subscription("ana", new_id(NOW))
        async with store.transaction() as tx:
            await store.deliveries.record(tx, [make_attempt_result(tried, RetryLater(SOON, "busy", 429))], NOW)
            if is_registered_already:
                await store.subscriptions.register(tx, fresh, replaces=None, now=NOW)
            await store.subscriptions.register(tx, fresh, replaces=scene.devices[0].endpoint, now=NOW)
            [task] = await store.deliveries.batch_due(tx, SOON, 10)
            [waiting] = await store.deliveries.claim(tx, [task.ref], token=new_id(NOW), now=SOON, lease_until=SOON)
        assert isinstance(waiting.target, PushSubscription)
        assert (waiting.target.endpoint, waiting.target.auth) == (fresh.endpoint, fresh.auth)

    async def test_a_device_with_both_subscriptions_planned_gets_the_message_once(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [old] = scene.devices
        new = make_subscription("ana", new_id(NOW))
        second = make_planned_delivery(scene.notification, "ana", new.id, batch_id=scene.batch_id)
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, new, replaces=None, now=NOW)
            await store.deliveries.add(tx, [second], [], NOW)
            await store.subscriptions.register(tx, new, replaces=old.endpoint, now=NOW)
            [one] = await store.deliveries.claim(tx, [scene.batch_id], token=new_id(NOW), now=NOW, lease_until=SOON)
            traces = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert one.id == second.id
        assert [(trace.state, trace.why) for trace in traces] == [("skipped", "device_replaced"), ("sending", None)]

    async def test_outcomes_of_a_batch_are_recorded_together(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben", "cleo")
        ana, ben, cleo = await scene.claim(store)
        late = make_attempt_result(cleo, Accepted(), token=new_id(NOW))
        async with store.transaction() as tx:
            outcomes = [make_attempt_result(ana, Accepted()), make_attempt_result(ben, PermanentFailure("no")), late]
            assert await store.deliveries.record(tx, outcomes, NOW) == 2
            assert await store.deliveries.record(tx, [], NOW) == 0
        assert await count_by_state(store, scene.notification) == {"delivered": 1, "refused": 1, "sending": 1}

    async def test_the_outcome_of_a_user_erased_meanwhile_holds_up_nobody_else(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben")
        ana, ben = await scene.claim(store)
        async with store.transaction() as tx:
            await store.users.erase(tx, "ana")
        async with store.transaction() as tx:
            assert (
                await store.deliveries.record(
                    tx, [make_attempt_result(ana, Accepted()), make_attempt_result(ben, Accepted())], NOW
                )
                == 1
            )
        assert await count_by_state(store, scene.notification) == {"delivered": 1}

    async def test_a_long_reason_is_cut(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.record(tx, [make_attempt_result(due, PermanentFailure("x" * 5000))], NOW)
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert trace.why == trace.attempts[0].why == "x" * 300

    async def test_a_reason_may_have_any_character(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            assert (
                await store.deliveries.record(
                    tx, [make_attempt_result(due, PermanentFailure('Grüße "\\u0000"\n\0 🎷'))], NOW
                )
                == 1
            )
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=9
            )
        assert trace.why == trace.attempts[0].why == 'Grüße "\\u0000"\n\N{REPLACEMENT CHARACTER} 🎷'

    async def test_a_trace_names_the_device_and_the_rule(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        async with store.read_snapshot() as tx:
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id="ana", after=None, limit=9
            )
        assert trace.target_label == "Firefox on Linux at push.example"
        assert (trace.rule, trace.state, trace.due_at, trace.created_at) == ("on by default", "pending", NOW, NOW)

    async def test_a_trace_does_not_show_a_device_that_has_a_new_owner(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben")
        moved = scene.devices[0]
        async with store.transaction() as tx:
            new_owner = structs.replace(moved, user_id="ben", id=new_id(NOW))
            await store.subscriptions.register(tx, new_owner, replaces=None, now=NOW)
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id="ana", after=None, limit=9
            )
        assert trace.target_label is None

    async def test_traces_are_read_in_pages_and_by_user(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        other = make_notification()
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [other])
            planned = [
                make_planned_delivery(other, user_id, new_id(NOW), batch_id=scene.batch_id)
                for user_id in ("ben", "ana", "ben", "cleo", "ana")
            ]
            await store.deliveries.add(tx, planned, [], NOW)
        assert await self._list_trace_ids(store, other.id, None) == [one.id for one in planned]
        assert await self._list_trace_ids(store, other.id, "ana") == [planned[1].id, planned[4].id]
        assert await self._list_trace_ids(store, other.id, "nobody") == []

    async def test_skips_are_kept_with_their_reason_and_read_in_pages(self, store: Store) -> None:
        notification, nobody = make_notification(), list[PlannedDelivery]()
        detail = {"category": "NEWS", "limit": 3, "deep": {"é": [None, True, 'a "b"']}}
        skipped = [
            SkipRecord(notification.id, user_id, channel, SkipReason.NO_DEVICE, detail)
            for user_id in ("ben", "ana", "cleo")
            for channel in ("email", "webpush")
        ]
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [notification])
            await store.deliveries.add(tx, nobody, skipped, NOW)
        found: list[SkipTrace] = []
        after = None
        async with store.read_snapshot() as tx:
            while page := await store.deliveries.list_skips(tx, notification.id, user_id=None, after=after, limit=4):
                found += page
                after = page[-1].id
            anas = await store.deliveries.list_skips(tx, notification.id, user_id="ana", after=None, limit=4)
        assert [(one.user_id, one.channel) for one in found] == [(one.user_id, one.channel) for one in skipped]
        assert {(one.reason, one.created_at) for one in found} == {(SkipReason.NO_DEVICE, NOW)}
        assert all(one.detail == detail for one in found)
        assert [(one.user_id, one.channel) for one in anas] == [("ana", "email"), ("ana", "webpush")]

    async def _list_trace_ids(self, store: Store, notification_id: str, user_id: str | None) -> list[str]:
        found: list[str] = []
        after = None
        async with store.read_snapshot() as tx:
            while page := await store.deliveries.list_with_attempts(
                tx, notification_id, user_id=user_id, after=after, limit=2
            ):
                found += [trace.id for trace in page]
                after = page[-1].id
        return found
