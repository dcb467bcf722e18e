"""Steps: what is sent when, and what cancels it."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from tests.support.step_world import UNLESS_SEEN, StepWorld

from tidings.channels.engagement_recorder import EngagementRecorder
from tidings.model.audience import city
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, PermanentFailure, RetryLater
from tidings.model.plan_options import DigestOptions, DomainEvent, Step
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus
from tidings.model.user import User
from tidings.model.waiting_step import StepCause, StepEnd
from tidings.ports.store import MAX_WORKER_CRASHES
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock


async def test_a_later_step_is_sent_after_its_wait(world: StepWorld) -> None:
    notification = await world.notify(*UNLESS_SEEN)
    assert world.count_sent() == {"inapp": 1}
    await world.work(599)
    assert world.count_sent() == {"inapp": 1}
    await world.work(1)
    assert world.count_sent() == {"inapp": 1, "email": 1}
    [step] = await world.list_steps(notification)
    assert (step.started_at, step.cause, step.ended_at) == (world.clock.now(), StepCause.HANDED_OVER, None)
    await world.work(10_000)
    assert world.count_sent() == {"inapp": 1, "email": 1}, "once"


async def test_c31_steps_start_in_turn_with_other_bulk_work(world: StepWorld) -> None:
    await world.notify(*UNLESS_SEEN)
    world.clock.advance(600)
    async with asyncio.timeout(10), world.pipeline._bulk_lock:
        starting = asyncio.create_task(world.pipeline.step_runner.start_due())
        await asyncio.wait([starting], timeout=0.1)
        assert not starting.done()
    assert await starting == 1


async def test_the_steps_of_the_template_apply_unless_the_request_has_its_own(world: StepWorld) -> None:
    await world.notify(template="ESCALATED")
    assert world.count_sent() == {"inapp": 1}
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "email": 1}
    await world.notify(Step(("sms",)), template="ESCALATED")
    assert world.count_sent() == {"inapp": 1, "email": 1, "sms": 1}


async def test_c38_seen_cancels_the_step_that_waits(world: StepWorld) -> None:
    notification = await world.notify(*UNLESS_SEEN)
    await world.inbox.mark_item_seen("ana", notification.id)
    [step] = await world.list_steps(notification)
    assert (step.ended_by, step.ended_at, step.is_waiting) == (StepEnd.SEEN, world.clock.now(), False)
    await world.work(10_000)
    assert world.count_sent() == {"inapp": 1}


async def test_c38_seen_cancels_what_is_unsent_of_a_step_that_started(world: StepWorld) -> None:
    notification = await world.notify(*UNLESS_SEEN)
    world.clock.advance(600)
    assert await world.pipeline.step_runner.start_due() == 1
    await world.inbox.mark_item_seen("ana", notification.id)
    await world.work()
    assert world.count_sent() == {"inapp": 1}
    [_, mail] = await world.list_deliveries(notification)
    assert (mail.state, mail.why) == (DeliveryState.SKIPPED, SkipReason.STEP_CANCELLED.value)
    assert mail.detail == {"by": "seen", "step": 1}


async def test_c41_a_step_without_channels_of_the_user_is_passed_at_once(world: StepWorld) -> None:
    await world.add_users("ben", channels=())
    notification = await world.notify(Step(("email",)), Step(("sms",), 60), Step(("inapp",), 3600), to=["ben"])
    assert world.count_sent() == {"inapp": 1}
    assert {skip.channel for skip in await world.list_skips(notification)} == {"email", "sms"}


async def test_c41_the_next_step_does_not_wait_for_one_that_reached_nobody(world: StepWorld) -> None:
    world.channels["email"].respond = lambda _message: PermanentFailure("no")
    notification = await world.notify(Step(("email",)), Step(("sms",), 3600))
    assert world.count_sent() == {"email": 1, "sms": 1}
    [step] = await world.list_steps(notification)
    assert step.cause is StepCause.NOT_HANDED_OVER
    assert step.due_at is None
    assert step.started_at == world.clock.now()


async def test_options_channels_restrict_the_channels_of_all_steps(world: StepWorld) -> None:
    notification = await world.notify(
        Step(("inapp",)), Step(("email",), 60), Step(("sms",), 60), channels=("inapp", "sms")
    )
    await world.work(60)
    assert world.count_sent() == {"inapp": 1, "sms": 1}
    [step] = await world.list_steps(notification)
    assert step.step == 2


async def test_later_steps_are_counted(world: StepWorld) -> None:
    notification = await world.notify(*UNLESS_SEEN)
    await world.work(600)
    async with world.store.read_snapshot() as tx:
        counts = await world.store.notifications.get_counts(tx, notification.id)
    assert (counts.recipients, counts.deliveries, counts.skipped) == (1, 2, 0)


async def test_a_notification_that_is_cancelled_starts_no_later_step(world: StepWorld) -> None:
    notification = await world.notify(*UNLESS_SEEN)
    await world.pipeline.cancel(notification.id)
    await world.work(timedelta(days=1).total_seconds())
    assert world.count_sent() == {"inapp": 1}
    [step] = await world.list_steps(notification)
    assert step.ended_by is StepEnd.NOTIFICATION_CANCELLED


async def test_a_notification_that_is_superseded_starts_no_later_step(world: StepWorld) -> None:
    older = await world.notify(*UNLESS_SEEN, subject="order:1")
    await world.notify(Step(("sms",)), subject="order:1")
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "sms": 1}
    [step] = await world.list_steps(older)
    assert step.ended_by is StepEnd.SUPERSEDED


async def test_c40_seen_on_a_channel_without_a_feed_counts(world: StepWorld) -> None:
    notification = await world.notify(Step(("sms",)), Step(("email",), 600, "seen"))
    # as an app reports that it showed the message of its push or SMS
    await world.inbox.mark_item_seen("ana", notification.id)
    await world.work(600)
    assert world.count_sent() == {"sms": 1}


async def test_c42_seen_before_the_item_is_stored_counts(world: StepWorld) -> None:
    world.channels["inapp"].respond = lambda _message: RetryLater(world.clock.now() + timedelta(seconds=60), "busy")
    notification = await world.notify(*UNLESS_SEEN)
    await world.inbox.mark_item_seen("ana", notification.id)
    world.channels["inapp"].respond = lambda _message: Accepted()
    await world.work(60)
    await world.work(600)
    assert world.count_sent() == {"inapp": 2}
    [step] = await world.list_steps(notification)
    assert step.ended_by is StepEnd.SEEN


async def test_c39_delivered_is_a_report_of_the_provider_where_there_are_reports(any_store: SqlStore) -> None:
    world = StepWorld(any_store, FrozenClock(), channels_with_hooks=("email",))
    await world.add_users("ana", "ben")
    notification = await world.notify(Step(("email",)), Step(("sms",), 600, "delivered"), to=["ana", "ben"])
    [first, _] = await world.list_deliveries(notification)
    event = ProviderEvent("email", "smtp", "1", world.clock.now(), status=ReceiptStatus.DELIVERED, delivery_id=first.id)
    async with world.store.transaction() as tx:
        await world.store.receipts.add(tx, event, world.clock.now())
    await world.work(600)
    assert [message.target.user_id for message in world.channels["sms"].sent] == ["ben"]
    assert {step.user_id: step.ended_by for step in await world.list_steps(notification)} == {
        "ana": StepEnd.DELIVERED,
        "ben": None,
    }


async def test_c39_delivered_is_the_hand_over_where_there_are_no_reports(world: StepWorld) -> None:
    notification = await world.notify(Step(("email",)), Step(("sms",), 600, "delivered"))
    [step] = await world.list_steps(notification)
    assert step.ended_by is StepEnd.DELIVERED
    await world.work(600)
    assert world.count_sent() == {"email": 1}


async def test_c39_a_click_of_a_person_counts_and_a_scan_does_not(world: StepWorld) -> None:
    await world.add_users("ana", "ben")
    notification = await world.notify(Step(("email",)), Step(("sms",), 600, "read"), to=["ana", "ben"])
    clicked, scanned = await world.list_deliveries(notification)
    async with world.store.transaction() as tx:
        for delivery, codes in ((clicked, ("link 1 of 2",)), (scanned, ("link 1 of 2", "link 2 of 2"))):
            for code in codes:
                event = ProviderEvent(
                    "email",
                    "tidings",
                    f"{delivery.id}{code}",
                    world.clock.now(),
                    cause=EventCause.CLICK,
                    delivery_id=delivery.id,
                    code=code,
                )
                await world.store.receipts.add(tx, event, world.clock.now())
    await world.work(600)
    assert [message.target.user_id for message in world.channels["sms"].sent] == [scanned.user_id]


async def test_c38_a_click_on_the_only_link_cancels_in_its_own_transaction(world: StepWorld) -> None:
    notification = await world.notify(Step(("email",)), Step(("sms",), 600, "clicked"))
    [delivery] = await world.list_deliveries(notification)
    async with world.store.transaction() as tx:
        assert await world.store.steps.cancel_by_click(tx, "ana", delivery.id, world.clock.now()) == 1
        assert await world.store.steps.cancel_by_click(tx, "ben", delivery.id, world.clock.now()) == 0
    await world.work(600)
    assert world.count_sent() == {"email": 1}


async def test_c38_a_receipt_of_a_click_cancels_in_its_own_transaction_and_once(world: StepWorld) -> None:
    await world.add_users("ana", "ben")
    notification = await world.notify(Step(("email",)), Step(("sms",), 600, "seen"), to=["ana", "ben"])
    deliveries = sorted(await world.list_deliveries(notification), key=lambda delivery: delivery.user_id)
    recorder = EngagementRecorder(world.store, world.clock)
    clicks = [
        ProviderEvent(
            "email",
            "browser",
            f"clicked:{delivery.id}",
            world.clock.now(),
            cause=EventCause.CLICK,
            delivery_id=delivery.id,
            user_id=user_id,
        )
        for delivery, user_id in zip(deliveries, ("ana", "erased"), strict=True)
    ]
    await asyncio.gather(*(recorder.record(click) for click in [*clicks, clicks[0]]))
    assert {step.user_id: step.ended_by for step in await world.list_steps(notification)} == {
        "ana": StepEnd.CLICKED,
        "ben": None,
    }
    receipts = {delivery.user_id: delivery.receipts for delivery in await world.list_deliveries(notification)}
    assert ([receipt.repeats for receipt in receipts["ana"]], receipts["ben"]) == ([1], [])


async def test_c39_where_devices_report_a_hand_over_is_not_delivered(any_store: SqlStore, clock: FrozenClock) -> None:
    world = StepWorld(any_store, clock, receipt_categories={"email": ["PLAN"]})
    await world.add_users("ana", "ben")
    notification = await world.notify(Step(("email",)), Step(("sms",), 600, "delivered"), to=["ana", "ben"])
    assert [step.ended_by for step in await world.list_steps(notification)] == [None, None]
    shown = (await world.list_deliveries(notification))[0]
    event = ProviderEvent(
        "email",
        "browser",
        f"shown:{shown.id}",
        clock.now(),
        status=ReceiptStatus.DELIVERED,
        delivery_id=shown.id,
        user_id=shown.user_id,
    )
    await EngagementRecorder(world.store, clock).record(event)
    await world.work(600)
    assert [message.target.user_id for message in world.channels["sms"].sent] == [
        {"ana": "ben", "ben": "ana"}[shown.user_id]
    ]


async def test_the_most_engaged_channel_of_each_step_is_used_and_a_dry_run_says_so(world: StepWorld) -> None:
    await world.add_users("ana", "ben")
    recorder = EngagementRecorder(world.store, world.clock)
    for channel, days_ago in (("sms", 29), ("sms", 29), ("email", 1), ("email", 31), ("email", 31)):
        happened = world.clock.now() - timedelta(days=days_ago)
        delivery_id = new_id(world.clock.now())
        click = ProviderEvent(
            channel,
            "browser",
            f"clicked:{delivery_id}",
            happened,
            cause=EventCause.CLICK,
            delivery_id=delivery_id,
            user_id="ana",
        )
        await recorder.record(click)
    both = ("email", "sms")
    request = replace(world.build_request(Step(both), to=["ana", "ben"]), channel_selection="mostEngaged")
    async with world.store.read_snapshot() as tx:
        estimate = await world.pipeline.dry_run(tx, request)
    assert (estimate.by_channel, estimate.skipped) == (
        {"sms": 1, "email": 1},
        {SkipReason.NOT_MOST_ENGAGED: 2},
    )
    notification = await world.pipeline.submit(request)
    later = replace(request, steps=(Step(("inapp",)), Step(both, 600)))
    await world.pipeline.submit(later)
    await world.work()
    assert {delivery.user_id: delivery.channel for delivery in await world.list_deliveries(notification)} == {
        "ana": "sms",
        "ben": "email",
    }
    assert {(skip.user_id, skip.channel): skip.detail["selected"] for skip in await world.list_skips(notification)} == {
        ("ana", "email"): "sms",
        ("ben", "sms"): "email",
    }
    await world.work(600)
    assert world.count_sent() == {"inapp": 2, "sms": 2, "email": 2}


async def test_c39_a_domain_event_cancels_the_steps_about_its_subject(world: StepWorld) -> None:
    paid = (Step(("email",)), Step(("sms",), 600, DomainEvent("invoice.paid")))
    one, other = [await world.notify(*paid, subject=subject) for subject in ("invoice:1", "invoice:2")]
    async with world.store.transaction() as tx:
        about = {"subject": "invoice:1", "user_id": "ana"}
        assert await world.store.steps.cancel_by_event(tx, "invoice.paid", world.clock.now(), **about) == 1
        assert await world.store.steps.cancel_by_event(tx, "invoice.paid", world.clock.now(), **about) == 0
        assert await world.store.steps.cancel_by_event(tx, "invoice.sent", world.clock.now(), **about) == 0
    await world.work(600)
    assert [step.ended_by for step in await world.list_steps(one)] == [StepEnd.EVENT]
    assert [step.ended_by for step in await world.list_steps(other)] == [None]


async def test_c39_a_domain_event_about_a_user_cancels_the_steps_without_a_subject(world: StepWorld) -> None:
    await world.add_users("ana", "ben")
    notification = await world.notify(
        Step(("email",)), Step(("sms",), 600, DomainEvent("otp.verified")), to=["ana", "ben"]
    )
    async with world.store.transaction() as tx:
        now = world.clock.now()
        assert await world.store.steps.cancel_by_event(tx, "otp.verified", now, subject=None, user_id="ana") == 1
    await world.work(600)
    assert {step.user_id: step.ended_by for step in await world.list_steps(notification)} == {
        "ana": StepEnd.EVENT,
        "ben": None,
    }


async def test_an_erasure_removes_the_steps_of_the_user(world: StepWorld) -> None:
    await world.add_users("ana", "ben")
    notification = await world.notify(*UNLESS_SEEN, to=["ana", "ben"])
    async with world.store.transaction() as tx:
        assert await world.store.users.erase(tx, "ana")
    assert [step.user_id for step in await world.list_steps(notification)] == ["ben"]
    await world.work(600)
    assert [message.target.user_id for message in world.channels["email"].sent] == ["ben"]


async def test_nobody_who_left_the_audience_gets_a_later_step(world: StepWorld) -> None:
    await world.add_users("ana", "ben")
    async with world.store.transaction() as tx:
        await world.store.users.upsert(tx, [User("ana", email="ana@example.org", city="Ulm")], world.clock.now())
    notification = await world.notify(*UNLESS_SEEN, audience=city("Ulm"))
    async with world.store.transaction() as tx:
        await world.store.users.upsert(tx, [User("ana", email="ana@example.org", city="Bonn")], world.clock.now())
    await world.work(600)
    assert world.count_sent() == {"inapp": 1}
    [step] = await world.list_steps(notification)
    assert step.ended_by is StepEnd.LEFT_AUDIENCE


async def test_a_quarantined_delivery_does_not_keep_the_next_step_waiting(world: StepWorld) -> None:
    # planned and never recorded: each worker dies while it sends it
    request = world.build_request(Step(("sms",)), Step(("email",), 600))
    notification = await world.pipeline.submit(request)
    for _ in range(MAX_WORKER_CRASHES):
        await world.claim_and_crash()
    await world.work()
    assert world.count_sent() == {"email": 1}
    [step] = await world.list_steps(notification)
    assert step.cause is StepCause.NOT_HANDED_OVER


async def test_a_digest_collects_before_the_first_step_and_takes_the_steps(world: StepWorld) -> None:
    requests = [replace(world.build_request(*UNLESS_SEEN), digest=DigestOptions(window_seconds=300)) for _ in range(3)]
    collected = [await world.pipeline.submit(request) for request in requests]
    await world.work()
    assert world.count_sent() == {}
    assert [step for notification in collected for step in await world.list_steps(notification)] == []
    world.clock.advance(300)
    await world.pipeline.close_due_digests()
    await world.work()
    assert world.count_sent() == {"inapp": 1}
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "email": 1}
