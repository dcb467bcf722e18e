"""Delays of a retry policy, and the wait that a server requests."""

from datetime import UTC, datetime, timedelta

import pytest

from tidings.channels.http.retry_policy import RetryPolicy, parse_retry_after
from tidings.model.outcome import PermanentFailure, RetryLater

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
POLICY = RetryPolicy((timedelta(seconds=10), timedelta(minutes=10)), jitter_share=0.5)


def test_jitter_only_lengthens_a_delay() -> None:
    assert POLICY.find_delay(1, 0.0) == timedelta(seconds=10)
    assert POLICY.find_delay(2, 0.5) == timedelta(minutes=12.5)
    assert POLICY.find_delay(3, 0.5) is None


def test_a_failure_is_final_after_the_last_attempt() -> None:
    assert POLICY.max_attempts == 3
    assert POLICY.retry_or_give_up("down", 2, NOW, 0.0, 500) == RetryLater(NOW + timedelta(minutes=10), "down", 500)
    assert POLICY.retry_or_give_up("down", 3, NOW, 0.0) == PermanentFailure("gave up after 3 attempts: down")


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("120", timedelta(minutes=2)),
        ("0", timedelta(seconds=1)),
        ("9" * 400, timedelta(hours=24)),
        ("Sun, 22 Nov 2026 12:05:00 GMT", timedelta(minutes=5)),
        ("Sun, 22 Nov 2020 12:05:00 GMT", timedelta(seconds=1)),
        ("soon", None),
        ("-1", None),
        (None, None),
    ],
)
def test_the_wait_of_retry_after(value: str | None, wait: timedelta | None) -> None:
    assert parse_retry_after(value, NOW) == wait
