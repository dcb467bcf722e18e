"""Counters of outcomes for Prometheus, fed by the record hop. Never a COUNT over deliveries on the way of a send."""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from tidings.model.delivery import Attempted

ATTEMPTS = Counter("tidings_attempts", "Recorded tries and late skips", ("channel", "outcome"))
#: set at the start to read the store's own count
STATEMENTS = Gauge("tidings_sql_statements", "SQL statements executed since the start")
SECONDS = Histogram(
    "tidings_send_seconds",
    "From handing a message to the channel to its answer",
    ("channel",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
)


def observe(attempts: Sequence[Attempted]) -> None:
    """Count a batch of recorded outcomes."""
    for (channel, outcome), count in Tally((a.channel, type(a.outcome).__name__.lower()) for a in attempts).items():
        ATTEMPTS.labels(channel, outcome).inc(count)
    for attempt in attempts:
        SECONDS.labels(attempt.channel).observe((attempt.finished_at - attempt.started_at).total_seconds())
