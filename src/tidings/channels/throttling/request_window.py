"""The requests to a server in the last minute: how many, and how many of them failed."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime

#: seconds of the window
WINDOW_SECONDS = 60
#: seconds over which the current rate is measured
RATE_SECONDS = 5


@dataclass(slots=True)
class _Bucket:
    """One second."""

    second: int
    requests: int = 0
    failures: int = 0


class RequestWindow:
    """Counts the results of requests, in buckets of a second."""

    def __init__(self) -> None:
        self._buckets: deque[_Bucket] = deque()
        self._requests = 0
        self._failures = 0
        #: since the start
        self.requests_total = 0
        self.failures_total = 0

    def record(self, now: datetime, *, is_failure: bool) -> None:
        """Record a request that ended."""
        second = self._forget_old(now)
        if not self._buckets or self._buckets[-1].second != second:
            self._buckets.append(_Bucket(second))
        bucket = self._buckets[-1]
        bucket.requests += 1
        self._requests += 1
        self.requests_total += 1
        if is_failure:
            bucket.failures += 1
            self._failures += 1
            self.failures_total += 1

    def count(self, now: datetime) -> tuple[int, int]:
        """Return the requests of the last minute, and how many of them failed."""
        self._forget_old(now)
        return self._requests, self._failures

    def compute_failure_share(self, now: datetime) -> float:
        """Return the share of failures among the requests of the last minute, 0 without any."""
        requests, failures = self.count(now)
        return failures / requests if requests else 0.0

    def measure_rate(self, now: datetime) -> float:
        """Return the requests per second over the last seconds in which there were any, 0 without any."""
        second = self._forget_old(now)
        recent = [bucket for bucket in self._buckets if bucket.second > second - RATE_SECONDS]
        if not recent:
            return 0.0
        return sum(bucket.requests for bucket in recent) / (second - recent[0].second + 1)

    def _forget_old(self, now: datetime) -> int:
        """Forget seconds outside the window, also those after a clock was set back. Return the current second."""
        second = int(now.timestamp())
        while self._buckets and not second - WINDOW_SECONDS < self._buckets[0].second <= second:
            bucket = self._buckets.popleft()
            self._requests -= bucket.requests
            self._failures -= bucket.failures
        return second
