"""However the last message of a step ends, the next step starts at once or ends with a reason. None waits for ever."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.step_world import StepWorld

from tidings.model.delivery import SkipReason
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.model.plan_options import DigestOptions, Step, ThrottleOptions
from tidings.model.preference import Preference
from tidings.model.user_schedule import QuietHours, UserSchedule
from tidings.model.waiting_step import StepCause, StepEnd, WaitingStep

STEPS = (Step(("email",)), Step(("sms",), 86_400))
ANSWERS: dict[str, Outcome] = {
    "refused": PermanentFailure("no"),
    "gone": InvalidTarget("unknown mailbox"),
}


@pytest.fixture
def later(world: StepWorld) -> RetryLater:
    """The answer of a provider that is busy for an hour."""
    return RetryLater(world.clock.now() + timedelta(hours=1), "busy")


async def get_step(world: StepWorld, notification_id: str) -> WaitingStep:
    async with world.store.read_once() as tx:
        [step] = await world.store.steps.list_of(tx, notification_id, limit=9)
    return step


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_c41_the_next_step_starts_after_a_message_that_failed(world: StepWorld, answer: Outcome) -> None:
    world.channels["email"].respond = lambda _message: answer
    notification = await world.notify(*STEPS)
    assert world.count_sent() == {"email": 1, "sms": 1}
    assert (await get_step(world, notification.id)).cause is StepCause.NOT_HANDED_OVER


async def test_c41_the_next_step_starts_after_the_last_attempt(world: StepWorld) -> None:
    world.channels["email"].respond = lambda _message: RetryLater(world.clock.now() + timedelta(minutes=1), "busy")
    notification = await world.notify(*STEPS)
    while "sms" not in world.count_sent():
        assert (await get_step(world, notification.id)).due_at is None
        await world.work(60)
    assert world.count_sent()["email"] > 1
    assert (await get_step(world, notification.id)).cause is StepCause.NOT_HANDED_OVER


async def opt_out(world: StepWorld) -> None:
    async with world.store.transaction() as tx:
        await world.store.users.set_preferences(tx, "ana", [Preference("PLAN", "email", False)])


async def remove_address(world: StepWorld) -> None:
    await world.add_users("ana", channels=("sms",))


@pytest.mark.parametrize("change", [opt_out, remove_address])
async def test_c41_the_next_step_starts_after_a_message_that_may_not_be_sent_any_more(
    world: StepWorld, later: RetryLater, change: Callable[[StepWorld], Awaitable[None]]
) -> None:
    world.channels["email"].respond = lambda _message: later
    notification = await world.notify(*STEPS)
    world.channels["email"].respond = lambda _message: Accepted()
    await change(world)
    await world.work(3600)
    assert world.count_sent() == {"email": 1, "sms": 1}
    assert (await get_step(world, notification.id)).cause is StepCause.NOT_HANDED_OVER


async def test_c41_the_next_step_starts_if_the_next_attempt_would_be_too_late(
    world: StepWorld, later: RetryLater
) -> None:
    world.channels["email"].respond = lambda _message: later
    request = replace(world.build_request(*STEPS), expires_at=world.clock.now() + timedelta(minutes=59))
    await world.pipeline.submit(request)
    await world.work()
    assert world.count_sent() == {"email": 1, "sms": 1}


async def test_a_step_after_an_expired_message_is_skipped_as_expired(world: StepWorld, later: RetryLater) -> None:
    world.channels["email"].respond = lambda _message: later
    request = replace(world.build_request(*STEPS), expires_at=world.clock.now() + timedelta(minutes=61))
    notification = await world.pipeline.submit(request)
    await world.work()
    # no worker ran when it was due
    await world.work(3_661)
    assert world.count_sent() == {"email": 1}
    step = await get_step(world, notification.id)
    assert (step.is_waiting, step.cause) == (False, StepCause.NOT_HANDED_OVER)
    assert [(one.channel, one.reason) for one in await world.list_skips(notification)] == [("sms", SkipReason.EXPIRED)]


async def test_the_steps_of_a_notification_that_is_cancelled_unsent_end(world: StepWorld, later: RetryLater) -> None:
    world.channels["email"].respond = lambda _message: later
    notification = await world.notify(*STEPS)
    await world.pipeline.cancel(notification.id)
    await world.work(3600)
    assert (await get_step(world, notification.id)).ended_by is StepEnd.NOTIFICATION_CANCELLED


async def test_the_steps_of_a_notification_that_is_superseded_unsent_end(world: StepWorld, later: RetryLater) -> None:
    world.channels["email"].respond = lambda _message: later
    older = await world.notify(*STEPS, subject="order:1")
    await world.notify(Step(("inapp",)), subject="order:1")
    await world.work(3600)
    assert (await get_step(world, older.id)).ended_by is StepEnd.SUPERSEDED
    assert world.count_sent() == {"email": 1, "inapp": 1}


async def test_later_steps_reach_those_whom_the_newer_one_does_not_list(world: StepWorld, later: RetryLater) -> None:
    await world.add_users("ben")
    world.channels["email"].respond = lambda _message: later
    await world.notify(*STEPS, to=("ana", "ben"), subject="order:1")
    world.channels["email"].respond = lambda _message: Accepted()
    world.channels["email"].sent.clear()
    await world.notify(Step(("inapp",)), subject="order:1")
    await world.work(3600)
    await world.work(86_400)
    sent = {name: [one.target.user_id for one in world.channels[name].sent] for name in ("inapp", "email", "sms")}
    assert sent == {"inapp": ["ana"], "email": ["ben"], "sms": ["ben"]}


async def test_c32_a_message_that_quiet_hours_hold_does_not_start_the_clock(world: StepWorld) -> None:
    start = world.clock.now()
    hours = QuietHours(f"{start:%H:%M}", f"{start + timedelta(hours=2):%H:%M}", channels=("email",))
    async with world.store.transaction() as tx:
        await world.store.user_schedules.set(tx, "ana", UserSchedule("UTC", (hours,)), start)
    notification = await world.notify(*STEPS)
    await world.work(7_199)
    assert (world.count_sent(), (await get_step(world, notification.id)).due_at) == ({}, None)
    await world.work(1)
    assert world.count_sent() == {"email": 1}
    step = await get_step(world, notification.id)
    assert (step.cause, step.due_at) == (StepCause.HANDED_OVER, world.clock.now() + timedelta(days=1))


async def test_c32_a_message_that_a_provider_defers_does_not_start_the_clock(
    world: StepWorld, later: RetryLater
) -> None:
    world.channels["email"].respond = lambda _message: replace_count(later)
    notification = await world.notify(*STEPS)
    world.channels["email"].respond = lambda _message: Accepted()
    assert (await get_step(world, notification.id)).due_at is None
    await world.work(3600)
    assert (await get_step(world, notification.id)).due_at == world.clock.now() + timedelta(days=1)


def replace_count(later: RetryLater) -> RetryLater:
    """Return the answer of a provider that asks for a pause, as a limit on its rate does."""
    return RetryLater(later.until, later.why, 429, counts_as_attempt=False)


async def test_c32_a_message_that_a_digest_collects_does_not_start_the_clock(world: StepWorld) -> None:
    request = replace(world.build_request(*STEPS), digest=DigestOptions(window_seconds=3600))
    collected = await world.pipeline.submit(request)
    await world.work()
    await world.work(3_599)
    assert await world.list_steps(collected) == []
    await world.work(1)
    await world.pipeline.close_due_digests()
    await world.work()
    async with world.store.read_once() as tx:
        [digest] = await world.store.digests.list_page(tx, before=None, limit=9)
    assert digest.notification_id is not None
    assert (await get_step(world, digest.notification_id)).due_at == world.clock.now() + timedelta(days=1)


async def test_a_throttled_notification_starts_no_later_step(world: StepWorld) -> None:
    throttle = ThrottleOptions(1, 3_600)
    first, second = [
        await world.pipeline.submit(replace(world.build_request(*STEPS), throttle=throttle)) for _ in range(2)
    ]
    await world.work()
    assert world.count_sent() == {"email": 1}
    assert await world.list_steps(second) == []
    assert [(one.channel, one.reason) for one in await world.list_skips(second)] == [("email", SkipReason.THROTTLED)]
    await world.work(86_400)
    assert world.count_sent() == {"email": 1, "sms": 1}
    assert (await get_step(world, first.id)).started_at == world.clock.now()
