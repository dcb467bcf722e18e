"""Counters for Prometheus. Never a COUNT over deliveries on the way of a send.

With several processes on one data folder they add up (`insight.shared`); gauges say how they do.
"""

from collections import Counter as Tally
from collections.abc import Callable, Sequence

from prometheus_client import Counter, Gauge, Histogram

from tidings.model.delivery import Attempted
from tidings.ports.cache import CacheStats

ATTEMPTS = Counter("tidings_attempts", "Recorded tries and late skips", ("channel", "outcome"))
SECONDS = Histogram(
    "tidings_send_seconds",
    "From handing a message to the channel to its answer",
    ("channel",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
)
STATEMENTS = Gauge(
    "tidings_sql_statements", "SQL statements executed since the start of each process", multiprocess_mode="livesum"
)
IN_FLIGHT = Gauge(
    "tidings_sends_in_flight", "Messages handed to a channel and not answered", multiprocess_mode="livesum"
)
UNWRITTEN = Gauge("tidings_outcomes_unwritten", "Outcomes that are not in the database", multiprocess_mode="livesum")
BREAKERS = Gauge("tidings_breakers_open", "Processes that hold a target back", ("target",), multiprocess_mode="livesum")
LOOK_UPS = Counter("tidings_cache_lookups", "Look-ups in caches", ("cache", "result"))

#: called before the metrics are shown, and at each heartbeat: brings up to date what is counted elsewhere
_readings: dict[str, Callable[[], None]] = {}


def observe(attempts: Sequence[Attempted]) -> None:
    """Count a batch of recorded outcomes."""
    for (channel, outcome), count in Tally((a.channel, type(a.outcome).__name__.lower()) for a in attempts).items():
        ATTEMPTS.labels(channel, outcome).inc(count)
    for attempt in attempts:
        SECONDS.labels(attempt.channel).observe((attempt.finished_at - attempt.started_at).total_seconds())


def reads(gauge: Gauge, figure: Callable[[], float]) -> None:
    """Let a gauge show a figure of this process; the last one who asks is heard."""
    _readings[str(gauge)] = lambda: gauge.set(figure())


def reads_cache(name: str, stats: Callable[[], CacheStats]) -> None:
    """Let the look-ups of a cache be counted, so that its hit rate can be told. stats: totals since the start."""
    hits, misses = LOOK_UPS.labels(name, "hit"), LOOK_UPS.labels(name, "miss")
    last = CacheStats(0, 0)

    def read() -> None:
        nonlocal last
        now = stats()
        hits.inc(max(0, now.hits - last.hits))
        misses.inc(max(0, now.misses - last.misses))
        last = now

    _readings[f"cache:{name}"] = read


def reads_breakers(is_open: Callable[[], dict[str, bool]]) -> None:
    """Let the breakers of this process be shown. is_open: target → whether it is held back."""

    def read() -> None:
        for target, held_back in is_open().items():
            BREAKERS.labels(target).set(held_back)

    _readings["breakers"] = read


def refresh() -> None:
    """Bring up to date what is counted elsewhere."""
    for read in _readings.values():
        read()
