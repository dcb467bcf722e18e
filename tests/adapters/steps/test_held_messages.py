"""Messages that quiet hours hold, and what users do meanwhile."""

from datetime import timedelta

import pytest
from tests.support.step_world import StepWorld

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.outcome import Accepted, RetryLater
from tidings.model.plan_options import Step
from tidings.model.user_schedule import QuietHours, UserSchedule

#: around the noon at which the clock starts
AT_NOON = UserSchedule("UTC", (QuietHours("11:00", "13:00", channels=("email",)),))


async def hold_mail(world: StepWorld) -> None:
    await world.add_users("ana")
    async with world.store.transaction() as tx:
        await world.store.user_schedules.set(tx, "ana", AT_NOON, world.clock.now())


@pytest.mark.parametrize("mark", ["mark_item_seen", "mark_item_read"])
async def test_c30_a_held_message_that_the_user_has_seen_in_the_feed_is_not_sent(world: StepWorld, mark: str) -> None:
    await hold_mail(world)
    notification = await world.notify(channels=("inapp", "email"))
    other = await world.notify(channels=("inapp", "email"))
    assert world.count_sent() == {"inapp": 2}
    await getattr(world.inbox, mark)("ana", notification.id)
    await world.work(3600)
    assert [message.notification_id for message in world.channels["email"].sent] == [other.id]
    [mail] = [one for one in await world.list_deliveries(notification) if one.channel == "email"]
    assert (mail.state, mail.why, mail.detail) == (DeliveryState.SKIPPED, SkipReason.SEEN, {"heldBy": "quiet_hours"})


async def test_a_message_that_is_retried_outside_of_quiet_hours_is_sent_although_it_was_seen(world: StepWorld) -> None:
    await world.add_users("ana")
    busy = RetryLater(world.clock.now() + timedelta(seconds=60), "busy")
    world.channels["email"].respond = lambda _message: busy
    notification = await world.notify(channels=("inapp", "email"))
    await world.inbox.mark_item_seen("ana", notification.id)
    world.channels["email"].respond = lambda _message: Accepted()
    await world.work(60)
    assert {one.state for one in await world.list_deliveries(notification)} == {DeliveryState.DELIVERED}


async def test_c32_the_clock_of_the_next_step_starts_when_a_held_message_is_handed_over(world: StepWorld) -> None:
    await hold_mail(world)
    steps = (Step(("email",)), Step(("sms",), 600, "seen"))
    await world.notify(*steps)
    await world.work(3599)
    assert world.count_sent() == {}
    await world.work(1)
    await world.work(599)
    assert world.count_sent() == {"email": 1}
    await world.work(1)
    assert world.count_sent() == {"email": 1, "sms": 1}
