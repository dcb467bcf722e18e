"""Explanations: from recorded facts to a verdict and sentences."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tidings.model.audience import Audience, NamedSet, ticket_holders, users
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Priority
from tidings.model.template import Category
from tidings.model.trace import AttemptTrace, DeliveryTrace, SkipTrace
from tidings.model.waiting_step import WaitingStep
from tidings.observability.audience_membership import evaluate_membership
from tidings.observability.explain import ExplainInput, Verdict, explain
from tidings.packs.events.audiences import AUDIENCES

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KINDS = {kind.name: kind for kind in AUDIENCES}
SENT = NOW + timedelta(milliseconds=1240)


def _notification(audience: Audience, state: NotificationState = NotificationState.FANNED_OUT) -> Notification:
    return Notification(
        id="n1",
        template_code="EVENT_TIME_CHANGE",
        template_version=1,
        category="EVENT_TIME_CHANGE",
        audience=audience,
        variables={},
        priority=Priority.HIGH,
        channels=(),
        action_url=None,
        action_text=None,
        send_at=NOW,
        expires_at=NOW + timedelta(days=1),
        created_at=NOW,
        state=state,
    )


def _facts(
    *deliveries: DeliveryTrace,
    skips: tuple[SkipTrace, ...] = (),
    state: NotificationState = NotificationState.FANNED_OUT,
    member: bool = True,
    known: bool = True,
) -> ExplainInput:
    audience = ticket_holders("e1")
    return ExplainInput(
        user_id="ana",
        is_user_known=known,
        notification=_notification(audience, state),
        category=Category("EVENT_TIME_CHANGE", "New times"),
        preferences=(),
        subscriptions=(),
        deliveries=deliveries,
        skips=skips,
        membership=evaluate_membership(audience, {0: member}, KINDS, "ana"),
        now=NOW,
    )


def _delivery(
    state: DeliveryState, *outcomes: tuple[str, int | None], label: str | None = "Firefox at p"
) -> DeliveryTrace:
    return DeliveryTrace(
        id="d1",
        notification_id="n1",
        user_id="ana",
        channel="webpush",
        target_id="s1",
        target_label=label,
        state=state,
        rule="on by default",
        why=outcomes[-1][0] if outcomes else None,
        due_at=NOW + timedelta(seconds=8),
        created_at=NOW,
        updated_at=SENT,
        attempts=[
            AttemptTrace(number, "deferred", why, status, NOW, SENT) for number, (why, status) in enumerate(outcomes, 1)
        ],
    )


def _skip(reason: SkipReason) -> SkipTrace:
    return SkipTrace("k1", "n1", "ana", "webpush", reason, {"category": "EVENT_TIME_CHANGE"}, NOW)


OK = _delivery(DeliveryState.DELIVERED, ("accepted by the provider", 201))
WAITS = _delivery(DeliveryState.PENDING)
RETRIES = _delivery(DeliveryState.PENDING, ("the service is overloaded", 503))
GONE = _delivery(DeliveryState.GONE, ("unsubscribed", 410))
REFUSED = _delivery(DeliveryState.REFUSED, ("bad key", 403))
EXPIRED = _delivery(DeliveryState.EXPIRED)


def test_a_held_delivery_that_was_superseded_says_that_it_will_not_be_sent() -> None:
    held = replace(WAITS, held_by="quiet_hours")
    explained = explain(replace(_facts(held), superseded_by="n2"))
    assert explained.verdict is Verdict.SKIPPED
    assert explained.sentences == (
        "ana did not receive it; it was planned for 1 device.",
        "Firefox at p: will not be sent: the newer notification n2 on its subject replaces it.",
    )


def test_a_held_delivery_says_by_which_rule_until_when_and_with_which_inputs() -> None:
    held = replace(WAITS, held_by="quiet_hours", detail={"zone": "Europe/Berlin", "start": "22:00"})
    assert explain(_facts(held)).sentences[1] == (
        "Firefox at p: held by quiet_hours until 2026-11-22 12:00:08.0 UTC (zone: Europe/Berlin, start: 22:00)."
    )


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        (_facts(OK), Verdict.DELIVERED),
        (_facts(OK, GONE), Verdict.PARTLY_DELIVERED),
        (_facts(OK, WAITS), Verdict.PARTLY_DELIVERED),
        (_facts(WAITS, GONE), Verdict.WAITING),
        (_facts(RETRIES), Verdict.WAITING),
        (_facts(GONE), Verdict.FAILED),
        (_facts(REFUSED, EXPIRED), Verdict.FAILED),
        (_facts(EXPIRED), Verdict.EXPIRED),
        (_facts(_delivery(DeliveryState.SKIPPED)), Verdict.SKIPPED),
        (_facts(WAITS, state=NotificationState.CANCELLED), Verdict.CANCELLED),
        (_facts(_delivery(DeliveryState.CANCELLED), state=NotificationState.CANCELLED), Verdict.CANCELLED),
        (_facts(OK, state=NotificationState.CANCELLED), Verdict.DELIVERED),
        (_facts(skips=(_skip(SkipReason.NO_DEVICE),)), Verdict.SKIPPED),
        (_facts(OK, skips=(_skip(SkipReason.CHANNEL_NOT_SET_UP),)), Verdict.DELIVERED),
        (_facts(state=NotificationState.ACCEPTED), Verdict.WAITING),
        (_facts(state=NotificationState.FANNING_OUT), Verdict.WAITING),
        (_facts(state=NotificationState.ACCEPTED, member=False), Verdict.NOT_IN_AUDIENCE),
        (_facts(member=False), Verdict.NOT_IN_AUDIENCE),
        (_facts(), Verdict.JOINED_LATER),
        (_facts(state=NotificationState.CANCELLED), Verdict.CANCELLED),
        (_facts(known=False, member=False), Verdict.UNKNOWN_USER),
    ],
)
def test_the_verdict_and_at_least_one_sentence(facts: ExplainInput, verdict: Verdict) -> None:
    explanation = explain(facts)
    assert explanation.verdict is verdict
    assert explanation.sentences
    assert all(sentence.endswith(".") and "None" not in sentence for sentence in explanation.sentences)


def test_a_delivery_is_explained_with_device_time_and_attempts() -> None:
    assert explain(_facts(OK)).sentences == (
        "ana received it on 1 device. Why: ana was in the audience, and EVENT_TIME_CHANGE is on by default.",
        "Firefox at p: accepted by the webpush service at 2026-11-22 12:00:01.2 UTC, 1.2 s after the start, "
        "after 1 attempt (status 201).",
    )


def test_a_retry_is_explained_with_its_reason_and_next_attempt() -> None:
    assert explain(_facts(RETRIES)).sentences[1] == (
        "Firefox at p: not delivered after 1 attempt: the service is overloaded (status 503); "
        "next attempt at 2026-11-22 12:00:08.0 UTC."
    )


def test_a_removed_device_is_not_named() -> None:
    gone = replace(GONE, target_label=None)
    assert explain(_facts(gone)).sentences[1].startswith("a removed device: the subscription ended")


@pytest.mark.parametrize("reason", SkipReason)
def test_every_reason_to_skip_has_its_sentence(reason: SkipReason) -> None:
    (first, *_) = explain(_facts(skips=(_skip(reason),))).sentences
    assert first.startswith("Nothing was sent on webpush: ")
    assert "{" not in first


@pytest.mark.parametrize("reason", SkipReason)
def test_a_skip_reason_of_the_preflight_check_is_given_once(reason: SkipReason) -> None:
    late = replace(_delivery(DeliveryState.SKIPPED), why=reason.value)
    (_, sentence, *rest) = explain(_facts(late, skips=(_skip(reason),))).sentences
    assert sentence.startswith("Firefox at p: not sent: ")
    assert reason.value not in sentence or "_" not in reason.value
    assert not any(one.startswith("Nothing was sent") for one in rest)


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({}, "email, the first, because there was no engagement in 30 days."),
        ({"sms": 1, "email": 3}, "email, with the most engagement in 30 days (sms: 1, email: 3)."),
    ],
)
def test_the_channel_that_was_selected_is_named_with_the_inputs(counts: dict[str, int], why: str) -> None:
    detail = {"selected": "email", "days": 30, "counts": counts}
    skip = replace(_skip(SkipReason.NOT_MOST_ENGAGED), detail=detail)
    (sentence,) = explain(_facts(skips=(skip,))).sentences
    assert sentence == f"Nothing was sent on webpush: of the channels that reach ana, one is used: {why}"


def test_quiet_hours_end_in_the_time_of_the_user_too() -> None:
    held = replace(WAITS, held_by="quiet_hours", detail={"timezone": "Asia/Tokyo", "timezoneFrom": "user"})
    assert explain(_facts(held)).sentences[1] == (
        "Firefox at p: held by quiet_hours until 2026-11-22 12:00:08.0 UTC, which is 2026-11-22 21:00:08 in Asia/Tokyo "
        "(timezone: Asia/Tokyo, timezoneFrom: user)."
    )
    in_utc = replace(held, detail={"timezone": "UTC"})
    assert "until 2026-11-22 12:00:08.0 UTC (timezone: UTC)." in explain(_facts(in_utc)).sentences[1]


def test_steps_are_counted_as_in_the_api() -> None:
    step = WaitingStep("n1", "ana", 1, ("email",), 600, "seen", None, None, NOW, due_at=NOW)
    found = explain(replace(_facts(OK), steps=[step])).sentences
    assert "Step 1, counted from 0 (email), starts at 2026-11-22 12:00:00 UTC, unless the message was seen." in found


def _entry(**fields: object) -> dict[str, object]:
    return {"source": "user", "enabled": False, **fields}


AMOUNT = {"variable": "amount", "operator": "gte", "value": 5}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (_entry(channel="webpush", category="NEWS"), "ana turned off NEWS on webpush"),
        (_entry(category="NEWS"), "ana turned off NEWS on webpush"),
        (_entry(), "ana turned off everything on webpush"),
        (_entry(object="document:d-1"), "ana turned off everything about document:d-1 on webpush"),
        (_entry(category="NEWS", object="document:d-1"), "ana turned off NEWS about document:d-1 on webpush"),
        (
            _entry(category="NEWS", condition=AMOUNT, actual=3),
            "ana turned on NEWS on webpush only if amount gte 5, and it was 3",
        ),
    ],
)
def test_the_entry_that_decided_is_named(entry: dict[str, object], why: str) -> None:
    skip = replace(_skip(SkipReason.PREFERENCE_OFF), detail={"category": "EVENT_TIME_CHANGE", "entry": entry})
    (sentence,) = explain(_facts(skips=(skip,))).sentences
    assert sentence == f"Nothing was sent on webpush: {why}."


@pytest.mark.parametrize(
    ("detail", "why"),
    [
        ({"entry": _entry(source="category")}, "EVENT_TIME_CHANGE is opt-in"),
        ({}, "EVENT_TIME_CHANGE is opt-in"),
        (
            {"entry": _entry(source="installation", channel="webpush")},
            "the installation turned off everything on webpush",
        ),
    ],
)
def test_who_had_not_opted_in_learns_of_which_default(detail: dict[str, object], why: str) -> None:
    (sentence,) = explain(_facts(skips=(replace(_skip(SkipReason.NOT_OPTED_IN), detail=detail),))).sentences
    assert sentence == f"Nothing was sent on webpush: {why}, and ana had not turned it on."


def test_a_preference_is_named_with_category_and_channel() -> None:
    (sentence,) = explain(_facts(skips=(_skip(SkipReason.PREFERENCE_OFF),))).sentences
    assert sentence == "Nothing was sent on webpush: ana turned off EVENT_TIME_CHANGE on webpush."


def test_a_user_without_a_device_gets_a_plain_explanation() -> None:
    first, now = explain(_facts(skips=(_skip(SkipReason.NO_DEVICE),))).sentences
    assert first == (
        "Nothing was sent on webpush: at 2026-11-22 12:00:00.0 UTC, ana had no device with notifications on."
    )
    assert now == "ana now has no active device."


def test_a_user_outside_the_audience_gets_a_sentence_per_leaf() -> None:
    sentences = explain(_facts(member=False)).sentences
    assert sentences == (
        "ana is not in the audience of this notification.",
        "ana: holds an active ticket of event e1 → no.",
    )


def test_users_behind_the_cursor_have_been_passed() -> None:
    facts = _facts(state=NotificationState.FANNING_OUT)
    passed = replace(facts, notification=replace(facts.notification, cursor="bob"))
    ahead = replace(facts, notification=replace(facts.notification, cursor="alf"))
    assert explain(passed).verdict is Verdict.JOINED_LATER
    assert explain(ahead).verdict is Verdict.WAITING


def test_the_membership_tree_has_a_result_per_node() -> None:
    audience = ticket_holders("e1") - users("ana", "bobby", "evelyn")
    tree = evaluate_membership(audience, {0: True, 1: True}, KINDS, "ana")
    assert not tree.is_member
    assert [part.is_member for part in tree.parts] == [True, False]
    shown = " ".join(tree.iter_sentences("ana"))
    assert "bobby" not in shown
    assert "evelyn" not in shown


def test_an_undeclared_kind_is_still_explained() -> None:
    tree = evaluate_membership(NamedSet("old_kind", {"x": "1"}), {0: False}, KINDS, "ana")
    assert "old_kind" in next(tree.iter_sentences("ana"))


def test_a_contact_point_is_called_a_device_only_on_web_push() -> None:
    mail = replace(_delivery(DeliveryState.DELIVERED, ("250 OK", 250), label=None), id="d2", channel="email")
    phone = _delivery(DeliveryState.DELIVERED, ("201", 201))
    assert explain(_facts(phone, phone)).sentences[0].startswith("ana received it on 2 devices. ")
    assert explain(_facts(mail)).sentences[0].startswith("ana received it on 1 contact point. ")
    headline, *rest = explain(_facts(phone, mail)).sentences
    assert headline.startswith("ana received it on 2 contact points. ")
    assert rest[1].startswith("on email: accepted by the email service at ")
    item = replace(mail, channel="inapp")
    headline, *rest = explain(_facts(phone, item)).sentences
    assert headline.startswith("ana received it on 1 device and the feed. ")
    assert rest[1].startswith("on inapp: stored in the feed at ")
    ended = replace(mail, state=DeliveryState.GONE)
    assert explain(_facts(ended)).sentences[1].startswith("on email: the address is not usable any more: 250 OK")
