"""How a message becomes a request."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from tidings.channels.webpush.payload import topic_for
from tidings.channels.webpush.request import request_for
from tidings.model.delivery import Message
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TARGET = PushSubscription("s-1", "u-1", "https://fcm.googleapis.com/x", bytes(65), bytes(16), "key-1")
MESSAGE = Message("d-1", "n-1", TARGET, b"{}", Priority.NORMAL, NOW + timedelta(hours=1), 1)


@pytest.mark.parametrize(
    ("left", "ttl"),
    [
        (timedelta(hours=1), 3600),
        (timedelta(0), 60),
        (timedelta(days=-1), 60),
        (timedelta(seconds=59.9), 60),
        (timedelta(days=28), 2_419_200),
        (timedelta(days=400), 2_419_200),
    ],
)
def test_ttl_is_what_is_left_within_what_services_take(left: timedelta, ttl: int) -> None:
    assert request_for(structs.replace(MESSAGE, expires_at=NOW + left), NOW).ttl == ttl


@pytest.mark.parametrize(
    ("priority", "urgency"),
    [(Priority.URGENT, "high"), (Priority.HIGH, "high"), (Priority.NORMAL, "normal"), (Priority.LOW, "low")],
)
def test_urgency_follows_priority(priority: Priority, urgency: str) -> None:
    assert request_for(structs.replace(MESSAGE, priority=priority), NOW).urgency == urgency


def test_a_retry_keeps_its_topic_and_carries_the_targets_own_key() -> None:
    first, second = request_for(MESSAGE, NOW), request_for(structs.replace(MESSAGE, attempt=2), NOW)
    assert first.topic == second.topic == topic_for("n-1")
    assert second.attempt == 2
    assert first.key_id == "key-1"
