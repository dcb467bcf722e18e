"""The retry policy of a channel: its delays, and the wait that a server requests. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from tidings.model.outcome import PermanentFailure, RetryLater

#: bounds for the wait that a server requests with `Retry-After`
MIN_RETRY_AFTER = timedelta(seconds=1)
MAX_RETRY_AFTER = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is repeated."""

    #: before the 2nd, 3rd … attempt, each counted from the failure of the one before
    delays: tuple[timedelta, ...]
    #: maximum random addition to a delay, so that deferred deliveries do not all return at once
    jitter_share: float = 0.25

    @property
    def max_attempts(self) -> int:
        """Attempts per delivery, including the first."""
        return len(self.delays) + 1

    def find_delay(self, attempt: int, jitter: float) -> timedelta | None:
        """Return the delay after an attempt, None after the last. attempt: 1 = first; jitter: random, 0 ≤ jitter < 1.

        Jitter only lengthens a delay.
        """
        if attempt >= self.max_attempts:
            return None
        return self.delays[max(attempt, 1) - 1] * (1 + self.jitter_share * jitter)

    def retry_or_give_up(
        self, why: str, attempt: int, now: datetime, jitter: float, status: int | None = None
    ) -> RetryLater | PermanentFailure:
        """Return the outcome of a failure that may pass: a retry, or a permanent failure after the last attempt."""
        delay = self.find_delay(attempt, jitter)
        if delay is None:
            return PermanentFailure(f"gave up after {attempt} attempts: {why}", status)
        return RetryLater(now + delay, why, status)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return the wait that a `Retry-After` header requests, limited to 1 s … 24 h.

    The header has seconds or a date (RFC 9110 §10.2.3). Returns None if it is missing or malformed.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        # a very long number would overflow timedelta
        return max(MIN_RETRY_AFTER, timedelta(seconds=min(float(text), MAX_RETRY_AFTER.total_seconds())))
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, at - now))
