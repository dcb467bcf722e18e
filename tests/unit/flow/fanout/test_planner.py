"""Each recipient gets a delivery per target, or a skip with a reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from tidings.flow.fanout.delivery_ids import generate_ids
from tidings.flow.fanout.planner import Plan, plan_page
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions, PlanOptions, Step
from tidings.model.preference import Preference
from tidings.model.template import Category
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

NEWS = Category("NEWS", "News")
NOTIFICATION = replace(make_notification(), channels=())


def planned(
    *people: Recipient,
    devices: Mapping[str, Sequence[str]],
    notification: Notification = NOTIFICATION,
    category: Category = NEWS,
    batch_size: int = 200,
) -> Plan:
    reachable = [structs.replace(one, targets={"webpush": devices.get(one.user_id, ())}) for one in people]
    return plan_page(
        reachable,
        notification,
        category,
        channels=("webpush",),
        ids=generate_ids(batch_size, NOW),
        now=NOW,
    )


def make_recipient(user_id: str, **choices: bool) -> Recipient:
    entries = tuple(Preference("NEWS", channel, enabled) for channel, enabled in choices.items())
    return Recipient(user_id, "en", "UTC", entries, targets={})


def test_every_device_gets_a_delivery() -> None:
    made = planned(make_recipient("ana"), make_recipient("ben"), devices={"ana": ["a1", "a2"], "ben": ["b1"]})
    assert [(one.user_id, one.channel, one.target_id) for one in made.planned] == [
        ("ana", "webpush", "a1"),
        ("ana", "webpush", "a2"),
        ("ben", "webpush", "b1"),
    ]
    assert made.skipped == []
    first = made.planned[0]
    assert (first.notification_id, first.lane, first.due_at) == (NOTIFICATION.id, NOTIFICATION.priority, NOW)
    assert len({one.id for one in made.planned}) == 3


@pytest.mark.parametrize(
    ("choice", "category", "rule"),
    [
        (None, NEWS, "on by default"),
        (True, NEWS, "turned on by the user"),
        (False, replace(NEWS, mandatory=True), "mandatory"),
        (True, replace(NEWS, opt_in=True), "turned on by the user"),
    ],
)
def test_a_delivery_records_the_consent_rule(choice: bool | None, category: Category, rule: str) -> None:
    choices = {} if choice is None else {"webpush": choice}
    made = planned(make_recipient("ana", **choices), devices={"ana": ["a1"]}, category=category)
    assert [one.rule for one in made.planned] == [rule]


@pytest.mark.parametrize(
    ("recipient", "notification", "category", "reason"),
    [
        (make_recipient("ana", webpush=False), NOTIFICATION, NEWS, SkipReason.PREFERENCE_OFF),
        (make_recipient("ana"), NOTIFICATION, replace(NEWS, opt_in=True), SkipReason.NOT_OPTED_IN),
        (make_recipient("ana", email=True), NOTIFICATION, replace(NEWS, opt_in=True), SkipReason.NOT_OPTED_IN),
        (make_recipient("ben"), NOTIFICATION, NEWS, SkipReason.NO_CONTACT_POINT),
        (make_recipient("ben", webpush=False), NOTIFICATION, NEWS, SkipReason.PREFERENCE_OFF),
        (make_recipient("ben"), NOTIFICATION, replace(NEWS, mandatory=True), SkipReason.NO_CONTACT_POINT),
        (make_recipient("ana"), replace(NOTIFICATION, expires_at=NOW), NEWS, SkipReason.EXPIRED),
    ],
)
def test_a_recipient_without_deliveries_gets_a_skip_with_the_reason(
    recipient: Recipient, notification: Notification, category: Category, reason: SkipReason
) -> None:
    made = planned(recipient, devices={"ana": ["a1"]}, notification=notification, category=category)
    assert made.planned == []
    [skip] = made.skipped
    assert (skip.notification_id, skip.user_id, skip.channel) == (notification.id, recipient.user_id, "webpush")
    name, value = ("expiresAt", NOW.isoformat()) if reason is SkipReason.EXPIRED else ("category", "NEWS")
    assert (skip.reason, skip.detail[name]) == (reason, value)


def test_a_channel_that_is_not_set_up_is_skipped_and_the_others_are_used() -> None:
    asked = replace(NOTIFICATION, channels=("email", "webpush"))
    made = planned(make_recipient("ana"), devices={"ana": ["a1"]}, notification=asked)
    assert [(one.channel, one.reason) for one in made.skipped] == [("email", SkipReason.CHANNEL_NOT_SET_UP)]
    assert [one.channel for one in made.planned] == ["webpush"]


def test_deliveries_are_batched_by_the_batch_size() -> None:
    people = [make_recipient(f"user-{number}") for number in range(5)]
    made = planned(*people, devices={one.user_id: ["1"] for one in people}, batch_size=2)
    batch_ids = [str(one.batch_id) for one in made.planned]
    assert list(Counter(batch_ids).values()) == [2, 2, 1]
    assert batch_ids == sorted(batch_ids)


def test_an_empty_page_plans_nothing() -> None:
    assert planned(devices={}) == Plan()


def test_planning_ignores_the_send_time() -> None:
    later = replace(NOTIFICATION, send_at=NOW + timedelta(hours=1))
    made = planned(make_recipient("ana"), devices={"ana": ["a1"]}, notification=later)
    assert [one.due_at for one in made.planned] == [NOW]


@pytest.mark.parametrize("has_address", [True, False])
def test_c3_a_user_of_whom_a_digest_collects_a_later_step_has_no_skip_of_the_first_one(has_address: bool) -> None:
    steps = (Step(("sms",)), Step(("webpush",), 60))
    notification = replace(NOTIFICATION, plan=PlanOptions(steps, DigestOptions(window_seconds=600, key_value="")))
    made = planned(make_recipient("ana"), devices={"ana": ["a1"] if has_address else []}, notification=notification)
    # the digest decides on all channels again when it closes
    assert [one.key.user_id for one in made.collected] == (["ana"] if has_address else [])
    assert [(one.channel, one.reason) for one in made.skipped] == (
        [] if has_address else [("sms", SkipReason.CHANNEL_NOT_SET_UP), ("webpush", SkipReason.NO_CONTACT_POINT)]
    )
