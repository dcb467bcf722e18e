"""Of the channels that everything else permits, one is used."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tidings.flow.fanout.delivery_ids import generate_ids
from tidings.flow.fanout.planner import Plan, plan_page
from tidings.model.channel_engagement import ChannelEngagement, select_channel
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.plan_options import DigestOptions, PlanOptions, Step
from tidings.model.preference import Preference
from tidings.model.template import Category
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

CHANNELS = ("inapp", "webpush", "email", "sms")
MOST_ENGAGED = PlanOptions(channel_selection="mostEngaged")
NEWS = Category("NEWS", "News")
EMAIL_TWICE = {
    "email": ChannelEngagement(2, NOW),
    "webpush": ChannelEngagement(1, NOW),
    "webhook": ChannelEngagement(9, NOW),
}


def plan(
    options: PlanOptions = MOST_ENGAGED,
    engagement: dict[str, ChannelEngagement] | None = None,
    *,
    off: tuple[str, ...] = (),
    requested: tuple[str, ...] = (),
    step_channels: tuple[str, ...] | None = None,
) -> Plan:
    preferences = tuple(Preference("NEWS", channel, False) for channel in off)
    targets = {channel: (f"{channel}-1",) for channel in CHANNELS}
    return plan_page(
        [Recipient("ana", "en", "UTC", preferences, targets)],
        replace(make_notification(), category="NEWS", channels=requested, plan=options),
        NEWS,
        channels=CHANNELS,
        ids=generate_ids(100, NOW),
        now=NOW,
        engagement={} if engagement is None else {"ana": engagement},
        step_channels=step_channels,
    )


def used(made: Plan) -> list[str]:
    return [delivery.channel for delivery in made.planned]


def test_all_channels_are_used_unless_the_notification_selects() -> None:
    assert used(plan(PlanOptions(), EMAIL_TWICE)) == list(CHANNELS)


def test_the_most_engaged_channel_is_used_and_the_others_are_skipped_with_the_inputs() -> None:
    made = plan(engagement=EMAIL_TWICE)
    assert used(made) == ["email"]
    assert [(skip.channel, skip.reason) for skip in made.skipped] == [
        (channel, SkipReason.NOT_MOST_ENGAGED) for channel in ("inapp", "webpush", "sms")
    ]
    assert made.skipped[0].detail == {"selected": "email", "days": 30, "counts": {"webpush": 1, "email": 2}}


@pytest.mark.parametrize(("requested", "first"), [((), "inapp"), (("sms", "email"), "sms")])
def test_without_engagement_the_first_channel_is_used(requested: tuple[str, ...], first: str) -> None:
    made = plan(requested=requested)
    assert used(made) == [first]
    assert made.skipped[0].detail == {"selected": first, "days": 30, "counts": {}}


def test_a_channel_that_another_rule_forbids_is_not_selected() -> None:
    made = plan(engagement=EMAIL_TWICE, off=("email",))
    assert used(made) == ["webpush"]
    assert {skip.channel: skip.reason for skip in made.skipped} == {
        "inapp": SkipReason.NOT_MOST_ENGAGED,
        "email": SkipReason.PREFERENCE_OFF,
        "sms": SkipReason.NOT_MOST_ENGAGED,
    }


def test_an_only_channel_is_not_skipped() -> None:
    assert used(plan(requested=("sms",), engagement=EMAIL_TWICE)) == ["sms"]
    assert used(plan(off=CHANNELS)) == []


def test_each_step_selects_among_its_own_channels() -> None:
    steps = (Step(("inapp", "webpush")), Step(("email", "sms"), 600))
    options = PlanOptions(steps=steps, channel_selection="mostEngaged")
    made = plan(options, EMAIL_TWICE)
    assert used(made) == ["webpush"]
    assert [step.channels for step in made.waiting] == [("email", "sms")]
    later = plan(options, EMAIL_TWICE, step_channels=("email", "sms"))
    assert (used(later), [skip.channel for skip in later.skipped]) == (["email"], ["sms"])


def test_a_digest_collects_what_is_selected() -> None:
    options = PlanOptions(
        digest=DigestOptions(window_seconds=60, key_value="", first_at_once=True), channel_selection="mostEngaged"
    )
    [item] = plan(options, EMAIL_TWICE).collected
    assert [delivery.channel for delivery in item.deliveries] == ["email"]


def test_ties_are_decided_by_the_last_time_and_then_by_name() -> None:
    early, late = ChannelEngagement(1, NOW - timedelta(days=1)), ChannelEngagement(1, NOW)
    assert select_channel(["sms", "email"], {"sms": early, "email": late}) == "email"
    assert select_channel(["sms", "email"], {"sms": late, "email": late}) == "email"
    assert select_channel(["sms"], {"email": late}) == "sms"
