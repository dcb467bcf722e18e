"""A dry run sums up planned pages, and says for the first recipients what would happen on each channel, and when."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

import pytest

from tidings.flow.fanout.delivery_ids import NO_IDS
from tidings.flow.fanout.dry_run import MAX_EXAMINED_USERS, MAX_SHOWN_USERS, DryRunDecision, DryRunEstimate, DryRunStep
from tidings.flow.fanout.dry_run import DryRunOutcome as Outcome
from tidings.flow.fanout.planner import Plan, plan_page
from tidings.model.decision import Defer
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.plan_options import NO_PLAN_OPTIONS, DigestOptions, PlanOptions, Step, ThrottleOptions
from tidings.model.preference import ANY, Preference
from tidings.model.template import Category
from tidings.model.waiting_step import StepCause
from tidings.ports.pack import PackRule, RuleInput
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

NEWS = Category("NEWS", "News")
NOTIFICATION = replace(make_notification(), channels=())
LATER = NOW + timedelta(hours=8)


def make_recipient(user_id: str, *preferences: Preference, **targets: tuple[str, ...]) -> Recipient:
    return Recipient(user_id, "en", "UTC", preferences, targets)


def make_plan(
    *page: Recipient,
    options: PlanOptions = NO_PLAN_OPTIONS,
    rules: dict[str, PackRule] | None = None,
    at: datetime = NOW,
    step_channels: Sequence[str] | None = None,
) -> Plan:
    return plan_page(
        page,
        replace(NOTIFICATION, plan=options),
        NEWS,
        channels=("webpush", "email"),
        ids=NO_IDS,
        now=at,
        pack_rules=rules or {},
        step_channels=step_channels,
    )


def plan_nothing(_recipient: Recipient, _channels: Sequence[str], _at: datetime) -> Plan:
    return Plan()


def decide(recipient: Recipient, plan: Plan) -> list[DryRunDecision]:
    estimate = DryRunEstimate(1, NOW, plan_nothing)
    estimate.add_page([recipient], plan)
    return list(estimate.result().shown[recipient.user_id].decisions)


def show_steps(
    recipient: Recipient, *steps: Step, digest: DigestOptions | None = None, rules: dict[str, PackRule] | None = None
) -> Sequence[DryRunStep]:
    options = PlanOptions(steps, digest)

    def plan_step(one: Recipient, channels: Sequence[str], at: datetime) -> Plan:
        return make_plan(one, options=options, rules=rules, at=at, step_channels=channels)

    estimate = DryRunEstimate(1, NOW, plan_step)
    estimate.add_page([recipient], make_plan(recipient, options=options, rules=rules))
    return estimate.result().shown[recipient.user_id].steps


def test_pages_are_summed_up() -> None:
    people = [make_recipient("user-00", webpush=("1", "2")), make_recipient("user-01", webpush=("3",))]
    people += [make_recipient(f"user-{number:02}") for number in range(2, 12)]
    estimate = DryRunEstimate(500, LATER, plan_nothing)
    estimate.add_page(people, make_plan(*people))
    found = estimate.result()
    assert (found.recipients, found.examined, found.planned_at) == (500, 12, LATER)
    assert found.by_channel == {"webpush": 3}
    assert found.skipped == {SkipReason.NO_CONTACT_POINT: 22}
    assert found.sample == [one.user_id for one in people[:10]]


def test_a_bounded_number_of_people_is_examined_and_shown() -> None:
    estimate = DryRunEstimate(10**6, NOW, plan_nothing)
    page = [make_recipient(f"user-{number:05}") for number in range(MAX_EXAMINED_USERS - 1)]
    estimate.add_page(page, Plan())
    assert list(estimate.result().shown) == [one.user_id for one in page[:MAX_SHOWN_USERS]]
    assert not estimate.is_complete
    estimate.add_page([make_recipient("zoe")], Plan())
    assert estimate.is_complete


def test_each_channel_has_its_decision_with_rule_and_inputs() -> None:
    muted = Preference(ANY, "email", False)
    recipient = make_recipient("ana", muted, webpush=("1", "2"), email=("3",))
    push, skipped = decide(recipient, make_plan(recipient))
    assert push == DryRunDecision("webpush", Outcome.SEND, NOW, "on by default", contact_points=2)
    entry = {"source": "user", "channel": "email", "enabled": False}
    default = {"source": "category", "enabled": True}
    inputs = {"category": "NEWS", "entry": entry, "beaten": [default]}
    assert skipped == DryRunDecision("email", Outcome.SKIP, None, "consent", SkipReason.PREFERENCE_OFF, inputs)


def test_a_held_message_shows_until_when_and_by_which_rule() -> None:
    def hold(given: RuleInput) -> Defer:
        return given.defer(LATER, zone=given.timezone)

    recipient = make_recipient("ana", webpush=("1",))
    plan = make_plan(recipient, rules={"opening_hours": hold})
    [held, _] = decide(recipient, plan)
    assert (held.decision, held.at, held.rule, held.inputs) == (
        *(Outcome.HOLD, LATER, "opening_hours"),
        {"zone": "UTC"},
    )


def test_a_collected_message_shows_when_its_digest_closes() -> None:
    options = PlanOptions(digest=DigestOptions("title", 600, channels=("webpush",), key_value="Jazz"))
    recipient = make_recipient("ana", webpush=("1",), email=("2",))
    mail, digest = decide(recipient, make_plan(recipient, options=options))
    assert (mail.channel, mail.decision) == ("email", Outcome.SEND)
    assert (digest.channel, digest.decision, digest.at) == (None, Outcome.DIGEST, NOW + timedelta(minutes=10))
    assert digest.inputs == {"key": "Jazz", "firstAtOnce": False}


@pytest.mark.parametrize(
    ("instead", "is_exempt", "expected"),
    [
        ("digest", False, [("email", Outcome.SEND, Outcome.SKIP), ("webpush", Outcome.SEND, Outcome.DIGEST)]),
        ("digest", True, [("email", Outcome.SEND, None), ("webpush", Outcome.SEND, None)]),
        ("skip", False, [("email", Outcome.SEND, Outcome.SKIP), (None, Outcome.DIGEST, None)]),
    ],
)
def test_what_a_throttle_permits_is_sent_and_shows_what_happens_above_it(
    instead: Literal["skip", "digest"],
    is_exempt: bool,
    expected: list[tuple[str | None, Outcome, Outcome | None]],
) -> None:
    digest = DigestOptions(window_seconds=600, channels=("webpush",))
    options = PlanOptions(digest=digest, throttle=ThrottleOptions(2, 3600, instead=instead))
    recipient = make_recipient("ana", webpush=("1",), email=("2",))
    estimate = DryRunEstimate(1, NOW, plan_nothing, options, is_exempt=is_exempt)
    estimate.add_page([recipient], make_plan(recipient, options=options))
    found = estimate.result()
    assert [(one.channel, one.decision, one.above_limit) for one in found.shown["ana"].decisions] == expected
    assert (found.by_channel, found.collected) == (
        ({"email": 1}, 1) if instead == "skip" else ({"email": 1, "webpush": 1}, 0)
    )


def test_a_later_step_shows_when_it_starts_and_what_it_waits_for() -> None:
    recipient = make_recipient("ana", webpush=("1",), email=("2",))
    [later] = show_steps(recipient, Step(("webpush",)), Step(("email",), 600, "seen"))
    assert (later.step.step, later.step.unless, later.step.cause) == (1, "seen", StepCause.HANDED_OVER)
    assert later.starts_at == NOW + timedelta(seconds=600)
    expected = DryRunDecision("email", Outcome.SEND, later.starts_at, "on by default", contact_points=1)
    assert later.decisions == [expected]


def test_the_rules_of_a_later_step_are_asked_at_its_time() -> None:
    def close_at_night(given: RuleInput) -> Defer | None:
        return None if given.now < NOW + timedelta(hours=1) else given.defer(LATER)

    recipient = make_recipient("ana", webpush=("1",), email=("2",))
    steps = (Step(("webpush",)), Step(("email",), 3600), Step(("sms",), 60), Step(("inapp",), 60))
    mail, sms, inapp = show_steps(recipient, *steps, rules={"opening_hours": close_at_night})
    assert [(one.decision, one.at) for one in mail.decisions] == [(Outcome.HOLD, LATER)]
    # what is held is handed over when it is released, and starts the next clock then
    assert (sms.starts_at, sms.step.cause) == (LATER + timedelta(seconds=60), StepCause.HANDED_OVER)
    assert [one.reason for one in sms.decisions] == [SkipReason.CHANNEL_NOT_SET_UP]
    assert (inapp.starts_at, inapp.step.cause) == (sms.starts_at, StepCause.NOT_HANDED_OVER)


def test_the_steps_of_a_digest_start_after_it_closes() -> None:
    recipient = make_recipient("ana", webpush=("1",), email=("2",))
    steps = (Step(("webpush",)), Step(("email",), 600))
    [later] = show_steps(recipient, *steps, digest=DigestOptions("title", 300, key_value="Jazz"))
    assert later.starts_at == NOW + timedelta(seconds=900)
    assert [one.decision for one in later.decisions] == [Outcome.SEND]


def test_a_step_that_reaches_nobody_is_among_the_first_decisions() -> None:
    recipient = make_recipient("ana", email=("2",))
    steps = (Step(("webpush",)), Step(("email",), 600))
    plan = make_plan(recipient, options=PlanOptions(steps))
    assert {one.channel: one.decision for one in decide(recipient, plan)} == {
        "webpush": Outcome.SKIP,
        "email": Outcome.SEND,
    }
    assert not show_steps(recipient, *steps)


def test_a_step_after_the_end_of_the_notification_is_skipped() -> None:
    recipient = make_recipient("ana", webpush=("1",), email=("2",))
    wait = int((NOTIFICATION.expires_at - NOW).total_seconds())
    [later] = show_steps(recipient, Step(("webpush",)), Step(("email",), wait))
    assert [one.reason for one in later.decisions] == [SkipReason.EXPIRED]


def test_it_is_planned_for_its_time() -> None:
    recipient = make_recipient("ana", webpush=("1",))
    [send, _] = decide(recipient, make_plan(recipient, at=LATER))
    assert send.at == LATER
    expired = replace(NOTIFICATION, expires_at=LATER)
    plan = plan_page([recipient], expired, NEWS, channels=("webpush",), ids=NO_IDS, now=LATER)
    assert [one.reason for one in decide(recipient, plan)] == [SkipReason.EXPIRED]
