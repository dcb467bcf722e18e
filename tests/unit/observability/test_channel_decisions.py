"""What explain shows of each channel: the decision, its rule and inputs, and what the preferences say now."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from tidings.model.consent import ConsentSource
from tidings.model.decision import find_rule
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.preference import ANY, Condition, Operator, Preference
from tidings.model.template import Category
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.observability.channel_decisions import (
    ChannelDecision,
    ChannelOutcome,
    describe_consent,
    list_channel_decisions,
)
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

NEWS = Category("NEWS", "News")
NOTIFICATION = replace(make_notification(), channels=(), subject="event:9")
MORNING = NOW + timedelta(hours=8)


def make_delivery(
    state: DeliveryState,
    *,
    why: str | None = None,
    held_by: str | None = None,
    detail: Mapping[str, object] | None = None,
) -> DeliveryTrace:
    return DeliveryTrace(
        id="d1",
        notification_id=NOTIFICATION.id,
        user_id="ana",
        channel="email",
        target_id="c1",
        target_label="home",
        state=state,
        rule="on by default",
        why=why,
        due_at=MORNING,
        created_at=NOW,
        updated_at=NOW,
        attempts=[],
        detail=detail or {},
        held_by=held_by,
    )


def decide(
    *deliveries: DeliveryTrace, skips: tuple[SkipTrace, ...] = (), preferences: tuple[Preference, ...] = ()
) -> list[ChannelDecision]:
    return list_channel_decisions(
        NOTIFICATION, NEWS, ("email", "webpush"), deliveries, skips, preferences=preferences, defaults=()
    )


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        (make_delivery(DeliveryState.DELIVERED), (ChannelOutcome.SENT, None, None, None)),
        (make_delivery(DeliveryState.UNCERTAIN), (ChannelOutcome.SENT, None, None, None)),
        (make_delivery(DeliveryState.PENDING), (ChannelOutcome.WAITING, None, None, MORNING)),
        (make_delivery(DeliveryState.SENDING), (ChannelOutcome.WAITING, None, None, None)),
        (
            make_delivery(DeliveryState.PENDING, held_by="quiet_hours", detail={"zone": "Europe/Berlin"}),
            (ChannelOutcome.HELD, "quiet_hours", None, MORNING),
        ),
        (make_delivery(DeliveryState.REFUSED, why="unknown"), (ChannelOutcome.FAILED, None, None, None)),
        (
            make_delivery(DeliveryState.SKIPPED, why="preference_off"),
            (ChannelOutcome.SKIPPED, "consent", SkipReason.PREFERENCE_OFF, None),
        ),
        (
            make_delivery(DeliveryState.EXPIRED, why="the relay kept it too long"),
            (ChannelOutcome.SKIPPED, "expiry", SkipReason.EXPIRED, None),
        ),
        (
            make_delivery(DeliveryState.CANCELLED),
            (ChannelOutcome.SKIPPED, "cancellation", SkipReason.CANCELLED, None),
        ),
    ],
)
def test_a_delivery_shows_its_rule_and_until_when_it_waits(
    delivery: DeliveryTrace, expected: tuple[object, ...]
) -> None:
    email, webpush = decide(delivery)
    assert (email.outcome, email.rule, email.reason, email.until) == expected
    assert email.delivery_id == "d1"
    assert email.inputs == delivery.detail
    assert (webpush.channel, webpush.outcome) == ("webpush", ChannelOutcome.UNDECIDED)


def test_a_skip_shows_its_rule_and_inputs_once() -> None:
    inputs = {"category": "NEWS"}
    skip = SkipTrace("k1", NOTIFICATION.id, "ana", "email", SkipReason.PREFERENCE_OFF, inputs, NOW)
    [email, _] = decide(skips=(skip,))
    assert (email.outcome, email.rule, email.inputs) == (ChannelOutcome.SKIPPED, "consent", inputs)
    repeated = decide(make_delivery(DeliveryState.SKIPPED, why="preference_off"), skips=(skip,))
    assert [one.delivery_id for one in repeated] == ["d1", None]
    assert repeated[1].outcome is ChannelOutcome.UNDECIDED


def test_a_rule_of_a_pack_is_named() -> None:
    assert find_rule(SkipReason.PACK_RULE, {"rule": "kids_at_night"}) == "kids_at_night"


def test_c17_each_channel_shows_the_entry_that_decides_and_those_it_beats() -> None:
    muted = Preference(ANY, ANY, False, "event:9")
    mail_on = Preference("NEWS", "email", True)
    email, webpush = decide(preferences=(mail_on, muted))
    assert email.consent is not None
    assert email.consent.deciding.preference == muted
    assert [entry.preference for entry in email.consent.beaten] == [mail_on, None]
    assert list(describe_consent(email)) == [
        "On email now: off by the user for everything about event:9.",
        "This precedes: on by the user for NEWS on email; on by default of the category.",
    ]
    assert webpush.consent is not None
    assert [entry.source for entry in webpush.consent.beaten] == [ConsentSource.CATEGORY]


def test_c17_a_condition_is_described_with_its_comparison() -> None:
    entry = Preference("NEWS", ANY, True, condition=Condition("title", Operator.EQUAL, "Grüße"))
    email, _ = decide(preferences=(entry,))
    assert next(describe_consent(email)) == "On email now: on by the user for NEWS if title eq 'Grüße'."


def test_defaults_alone_need_no_sentence() -> None:
    email, _ = decide()
    assert list(describe_consent(email)) == []
