"""Building a push request from a message."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from tidings.channels.webpush.payload import build_topic
from tidings.channels.webpush.push_exchange import build_push_request, compute_ttl
from tidings.model.delivery import OutboundMessage
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TARGET = PushSubscription("s-1", "u-1", "https://fcm.googleapis.com/x", bytes(65), bytes(16), "key-1")
MESSAGE = OutboundMessage("d-1", "n-1", TARGET, b"{}", Priority.NORMAL, NOW + timedelta(hours=1), 1, "event:7")


@pytest.mark.parametrize(
    ("left", "ttl"),
    [
        (timedelta(hours=1), 3600),
        (timedelta(seconds=59.9), 59),
        (timedelta(seconds=3.1), 3),
        (timedelta(seconds=1), 1),
        (timedelta(seconds=0.9), 0),
        (timedelta(days=28), 2_419_200),
        (timedelta(days=400), 2_419_200),
    ],
)
def test_the_ttl_never_exceeds_the_time_left(left: timedelta, ttl: int) -> None:
    assert compute_ttl(NOW + left, NOW) == ttl


def test_a_message_that_has_expired_has_no_ttl() -> None:
    assert compute_ttl(NOW - timedelta(days=1), NOW) < 1


@pytest.mark.parametrize(
    ("priority", "urgency"),
    [(Priority.URGENT, "high"), (Priority.HIGH, "high"), (Priority.NORMAL, "normal"), (Priority.LOW, "low")],
)
def test_urgency_follows_priority(priority: Priority, urgency: str) -> None:
    assert build_push_request(structs.replace(MESSAGE, priority=priority)).urgency == urgency


def test_a_retry_keeps_its_topic_and_carries_the_targets_own_key() -> None:
    first, second = build_push_request(MESSAGE), build_push_request(structs.replace(MESSAGE, attempt=2))
    assert first.topic == second.topic == build_topic("event:7")
    assert second.attempt == 2
    assert first.key_id == "key-1"
