"""What is collected: on which channels, under which key, and which notifications share a digest."""

from dataclasses import replace

import pytest
from msgspec import structs

from tidings.flow.plan.collection import DigestCollection, list_collected_channels
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions, PlanOptions
from tidings.model.priority import Priority
from tidings.testing.contracts.samples import NOW, make_notification

OPTIONS = DigestOptions("eventId", 600, key_value="e-1")


def make(options: DigestOptions | None = OPTIONS, *channels: str, **changes: object) -> Notification:
    return replace(make_notification(), channels=channels, plan=PlanOptions(digest=options), **changes)  # type: ignore[arg-type]  # checked by tests


def rule_of(notification: Notification) -> str:
    collection = DigestCollection.for_notification(notification)
    assert collection is not None
    return collection.rule_id


def test_without_a_digest_and_when_urgent_nothing_is_collected() -> None:
    assert DigestCollection.for_notification(make(None)) is None
    assert DigestCollection.for_notification(make(priority=Priority.URGENT)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"window_seconds": 60},
        {"window_seconds": None, "at": "08:00"},
        {"max_items": 5},
        {"first_at_once": True},
        {"key_value": "e-2"},
    ],
)
def test_c1_the_rule_does_not_depend_on_version_and_window(changes: dict[str, object]) -> None:
    other = replace(make(structs.replace(OPTIONS, **changes)), template_version=2)
    assert rule_of(other) == rule_of(make())


def test_c1_other_keys_and_channels_are_other_rules() -> None:
    rules = [
        rule_of(make()),
        rule_of(make(structs.replace(OPTIONS, key="hostId"))),
        rule_of(make(structs.replace(OPTIONS, channels=("email",)))),
        rule_of(make(OPTIONS, "email")),
    ]
    assert len(set(rules)) == len(rules)


@pytest.mark.parametrize(
    ("of_digest", "requested", "collected"),
    [
        ((), (), ()),
        (("email",), (), ("email",)),
        ((), ("sms", "email"), ("sms", "email")),
        (("email", "inapp"), ("sms", "email"), ("email",)),
    ],
)
def test_the_digest_is_sent_on_the_channels_that_are_collected(
    of_digest: tuple[str, ...], requested: tuple[str, ...], collected: tuple[str, ...]
) -> None:
    notification = make(structs.replace(OPTIONS, channels=of_digest), *requested)
    assert list_collected_channels(notification) == collected


def test_an_item_has_the_key_of_user_template_rule_and_value() -> None:
    notification = make()
    collection = DigestCollection.for_notification(notification)
    assert collection is not None
    item = collection.collect("ana", "UTC", NOW, [], [])
    assert item.key == ("ana", "NEWS", rule_of(notification), "e-1")
    assert (item.notification_id, item.accepted_at) == (notification.id, notification.created_at)
