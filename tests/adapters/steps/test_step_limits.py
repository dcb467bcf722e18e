"""Later steps and the limits: their notifications were counted for their users, and their messages leave."""

from collections.abc import Callable

import pytest
from tests.support.step_world import StepWorld

from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.model.alert import AlertName
from tidings.model.delivery import SkipReason
from tidings.model.frequency_cap import parse_frequency_caps
from tidings.model.plan_options import Step
from tidings.model.priority import Priority
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock

PEOPLE = ("ana", "ben", "cem")
MAIL_LATER = (Step(("inapp",)), Step(("email",), 600))
HOUR = 3600
Start = Callable[[RateLimitPolicy], StepWorld]


@pytest.fixture
def start(any_store: SqlStore, clock: FrozenClock) -> Start:
    """Start a process with limits."""
    return lambda limits: StepWorld(any_store, clock, rate_limits=limits)


async def test_c34_messages_of_later_steps_count_for_the_cap_of_the_installation(start: Start) -> None:
    world = start(RateLimitPolicy(installation_cap=2))
    await world.add_users(*PEOPLE)
    notification = await world.notify(*MAIL_LATER, to=PEOPLE)
    assert world.count_sent() == {"inapp": 3}, "in-app messages do not leave"
    await world.work(600)
    assert world.count_sent() == {"inapp": 3, "email": 2}
    [skip] = await world.list_skips(notification)
    assert (skip.reason, skip.channel) == (SkipReason.RATE_LIMITED, "email")
    assert (skip.detail["scope"], skip.detail["limit"], skip.detail["count"]) == ("installation", 2, 2)
    async with world.store.read_snapshot() as tx:
        [stored] = await world.store.notifications.get_many(tx, [notification.id])
    assert (stored.deliveries, stored.skipped) == (5, 1)
    # what steps sent is counted: nothing else leaves in this hour
    await world.notify(channels=["email"])
    assert world.count_sent() == {"inapp": 3, "email": 2}
    await world.work(HOUR)
    await world.notify(channels=["email"])
    assert world.count_sent() == {"inapp": 3, "email": 3}


async def test_c37_an_operator_is_told_when_the_cap_stops_a_later_step(start: Start) -> None:
    world = start(RateLimitPolicy(installation_cap=1))
    await world.add_users(*PEOPLE)
    await world.notify(*MAIL_LATER, to=PEOPLE)
    assert world.alerts.list_active() == []
    await world.work(600)
    [alert] = world.alerts.list_active()
    assert alert.name is AlertName.INSTALLATION_CAP_REACHED


async def test_a_step_that_the_cap_stops_reached_nobody_and_the_next_does_not_wait(start: Start) -> None:
    world = start(RateLimitPolicy(installation_cap=1))
    await world.add_users("ana")
    await world.notify(channels=["sms"])
    await world.notify(*MAIL_LATER, Step(("webhook",), 600), Step(("sms",), HOUR))
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "sms": 1}
    await world.work(HOUR)
    assert world.count_sent() == {"inapp": 1, "sms": 1}, "the last one was due at once, too, and was stopped"


async def test_c35_urgent_steps_pass_the_cap_and_count(start: Start) -> None:
    world = start(RateLimitPolicy(installation_cap=1))
    await world.add_users(*PEOPLE)
    await world.notify(*MAIL_LATER, to=PEOPLE, priority=Priority.URGENT)
    await world.work(600)
    assert world.count_sent() == {"inapp": 3, "email": 3}
    await world.notify(channels=["email"])
    assert world.count_sent() == {"inapp": 3, "email": 3}


async def test_c34_a_notification_with_steps_counts_once_for_its_user(start: Start) -> None:
    world = start(RateLimitPolicy(per_user=2, frequency_caps=parse_frequency_caps(["2/day"])))
    await world.add_users("ana")
    await world.notify(*MAIL_LATER)
    await world.work(600)
    assert world.count_sent() == {"inapp": 1, "email": 1}
    await world.notify(channels=["sms"])
    assert world.count_sent() == {"inapp": 1, "email": 1, "sms": 1}, "the second of two"
    await world.notify(channels=["sms"])
    assert world.count_sent() == {"inapp": 1, "email": 1, "sms": 1}
