"""Steps: what is sent when, and what cancels it (rules C32 and C38 to C42)."""

from datetime import timedelta

from tests.support.step_world import UNLESS_SEEN, StepWorld

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.outcome import PermanentFailure
from tidings.model.plan_options import Step
from tidings.model.waiting_step import StepCause, StepEnd


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
    assert mail.detail == {"by": "seen", "step": 2}


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
