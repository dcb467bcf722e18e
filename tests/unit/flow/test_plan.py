"""Each recipient gets a delivery per target, or a skip that says why."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from tidings.flow.plan.plan import Plan, batches_of, plan
from tidings.flow.target.preview import LOOKED_AT, Tally
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.notification import Notification
from tidings.model.template import Category
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import a_notification

NEWS = Category("NEWS", "News")
NOTIFICATION = replace(a_notification(), channels=())


def planned(
    *people: Recipient,
    devices: Mapping[str, Sequence[str]],
    notification: Notification = NOTIFICATION,
    category: Category = NEWS,
    batch_size: int = 200,
) -> Plan:
    reachable = [structs.replace(one, targets={"webpush": devices.get(one.user_id, ())}) for one in people]
    return plan(
        reachable,
        notification,
        category,
        channels=("webpush",),
        batches=batches_of(batch_size, NOW),
        now=NOW,
    )


def person(user_id: str, **choices: bool) -> Recipient:
    return Recipient(user_id, "en", "UTC", choices, targets={})


def test_every_device_gets_a_delivery() -> None:
    made = planned(person("ana"), person("ben"), devices={"ana": ["a1", "a2"], "ben": ["b1"]})
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
def test_a_delivery_names_the_rule_that_let_it_through(choice: bool | None, category: Category, rule: str) -> None:
    choices = {} if choice is None else {"webpush": choice}
    made = planned(person("ana", **choices), devices={"ana": ["a1"]}, category=category)
    assert [one.rule for one in made.planned] == [rule]


@pytest.mark.parametrize(
    ("recipient", "notification", "category", "reason"),
    [
        (person("ana", webpush=False), NOTIFICATION, NEWS, SkipReason.PREFERENCE_OFF),
        (person("ana"), NOTIFICATION, replace(NEWS, opt_in=True), SkipReason.NOT_OPTED_IN),
        (person("ana", email=True), NOTIFICATION, replace(NEWS, opt_in=True), SkipReason.NOT_OPTED_IN),
        (person("ben"), NOTIFICATION, NEWS, SkipReason.NO_DEVICE),
        (person("ben", webpush=False), NOTIFICATION, NEWS, SkipReason.PREFERENCE_OFF),
        (person("ben"), NOTIFICATION, replace(NEWS, mandatory=True), SkipReason.NO_DEVICE),
        (person("ana"), replace(NOTIFICATION, expires_at=NOW), NEWS, SkipReason.EXPIRED),
    ],
)
def test_who_gets_nothing_is_recorded_with_the_reason(
    recipient: Recipient, notification: Notification, category: Category, reason: SkipReason
) -> None:
    made = planned(recipient, devices={"ana": ["a1"]}, notification=notification, category=category)
    assert made.planned == []
    [skip] = made.skipped
    assert (skip.notification_id, skip.user_id, skip.channel) == (notification.id, recipient.user_id, "webpush")
    assert (skip.reason, skip.detail) == (reason, {"category": "NEWS"})


def test_a_channel_that_is_not_set_up_is_skipped_and_the_others_are_used() -> None:
    asked = replace(NOTIFICATION, channels=("email", "webpush"))
    made = planned(person("ana"), devices={"ana": ["a1"]}, notification=asked)
    assert [(one.channel, one.reason) for one in made.skipped] == [("email", SkipReason.CHANNEL_NOT_SET_UP)]
    assert [one.channel for one in made.planned] == ["webpush"]


def test_deliveries_travel_in_batches_of_the_size_asked_for() -> None:
    people = [person(f"user-{number}") for number in range(5)]
    made = planned(*people, devices={one.user_id: ["1"] for one in people}, batch_size=2)
    sizes = [sum(one.batch_id == batch_id for one in made.planned) for batch_id in made.batch_ids]
    assert sizes == [2, 2, 1]
    assert made.batch_ids == sorted(made.batch_ids)


def test_an_empty_page_plans_nothing() -> None:
    assert planned(devices={}).batch_ids == []


def test_a_preview_sums_up_pages() -> None:
    people = [person(f"user-{number:02}") for number in range(12)]
    made = planned(*people, devices={"user-00": ["1", "2"], "user-01": ["3"]})
    tally = Tally(total=500)
    tally.add(people, made.planned, made.skipped)
    found = tally.preview()
    assert (found.recipients, found.examined) == (500, 12)
    assert found.by_channel == {"webpush": 3}
    assert found.skipped == {SkipReason.NO_DEVICE: 10}
    assert found.sample == [one.user_id for one in people[:10]]


def test_a_preview_stops_at_a_bounded_number_of_people() -> None:
    tally = Tally(total=10**6)
    page = [person("ana")] * (LOOKED_AT - 1)
    tally.add(page, [], [])
    assert not tally.enough
    tally.add(page[:1], [], [])
    assert tally.enough


def test_planning_does_not_look_at_the_time_of_sending() -> None:
    later = replace(NOTIFICATION, send_at=NOW + timedelta(hours=1))
    made = planned(person("ana"), devices={"ana": ["a1"]}, notification=later)
    assert [one.due_at for one in made.planned] == [NOW]
