"""Prometheus counters and gauges of a process. They never need a COUNT over deliveries while sending.

The metrics of several processes with one data folder are summed (`multiprocess_metrics`).
"""

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram

from tidings.model.delivery import AttemptResult, HoldRecord, SkipRecord
from tidings.model.digest import ClosedDigest, DigestItemState, DigestState
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, RetryLater
from tidings.model.provider import ProviderStatus
from tidings.model.recurring import RunState
from tidings.model.waiting_step import StepResult
from tidings.observability.provider_status import list_providers
from tidings.ports.cache import CacheStats
from tidings.ports.channel import Channel

ATTEMPTS = Counter(
    "tidings_attempts", "Recorded attempts, and skips found by the preflight check", ("channel", "outcome")
)
SEND_SECONDS = Histogram(
    "tidings_send_seconds",
    "Time from passing a message to the channel until its outcome",
    ("channel",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
)
SQL_STATEMENTS = Gauge(
    "tidings_sql_statements", "SQL statements executed since the start of each process", multiprocess_mode="livesum"
)
SENDS_IN_FLIGHT = Gauge(
    "tidings_sends_in_flight", "Messages passed to a channel without an outcome yet", multiprocess_mode="livesum"
)
UNWRITTEN_OUTCOMES = Gauge(
    "tidings_outcomes_unwritten", "Outcomes that are not written to the database yet", multiprocess_mode="livesum"
)
OPEN_BREAKERS = Gauge(
    "tidings_breakers_open",
    "Processes with an open circuit for a push host, or for one of the hosts of a push service",
    ("target",),
    multiprocess_mode="livesum",
)
PROVIDER_REQUESTS = Counter("tidings_provider_requests", "Answers of providers", ("channel", "provider"))
PROVIDER_ERRORS = Counter(
    "tidings_provider_errors", "Answers of providers that show a failure of the provider", ("channel", "provider")
)
PROVIDER_OUTAGES = Counter(
    "tidings_provider_outages", "How often a provider was taken out after failures", ("channel", "provider")
)
STEPS = Counter("tidings_steps", "Later steps of notifications that were due, by what became of them", ("result",))
CACHE_LOOKUPS = Counter("tidings_cache_lookups", "Look-ups in caches", ("cache", "result"))

DIGESTS = Counter("tidings_digests", "Digests that were closed", ("state",))
DIGEST_ITEMS = Counter("tidings_digest_items", "Items of closed digests", ("state",))
RECURRING_RUNS = Counter("tidings_recurring_runs", "Runs of recurring notifications that ended", ("state",))
#: the values of the labels `state`
DIGEST_STATES = (DigestState.CLOSED.value, DigestState.EMPTY.value)
DIGEST_ITEM_STATES = (DigestItemState.DIGESTED.value, DigestItemState.LEFT_OUT.value)

ROOM_CONNECTIONS = Gauge(
    "tidings_room_connections", "Connections of viewers to live rooms", multiprocess_mode="livesum"
)
ROOMS = Gauge("tidings_rooms", "Live rooms with viewers, counted once per process", multiprocess_mode="livesum")

#: the values of the label `outcome`
OUTCOME_LABELS = tuple(
    kind.label for kind in (Accepted, RetryLater, PermanentFailure, InvalidTarget, SkipRecord, HoldRecord)
)

#: (metric, part of it) → updates it; called before the metrics are rendered, and at each heartbeat
_callbacks: dict[tuple[str, str], Callable[[], None]] = {}


def create_series(channels: Sequence[str], caches: Sequence[str]) -> None:
    """Create the series of every channel and cache with the value 0, so that an alarm can tell 0 from no data."""
    for channel in channels:
        SEND_SECONDS.labels(channel)
        for outcome in OUTCOME_LABELS:
            ATTEMPTS.labels(channel, outcome)
    for step_result in StepResult:
        STEPS.labels(step_result.value)
    for state in DIGEST_STATES:
        DIGESTS.labels(state)
    for state in DIGEST_ITEM_STATES:
        DIGEST_ITEMS.labels(state)
    for run_state in RunState:
        if run_state is not RunState.PENDING:
            RECURRING_RUNS.labels(run_state.value)
    for cache in caches:
        for result in ("hit", "miss"):
            CACHE_LOOKUPS.labels(cache, result)


def count_outcomes(results: Sequence[AttemptResult]) -> None:
    """Count recorded attempts and observe their durations."""
    for (channel, outcome), count in Tally((result.channel, result.outcome.label) for result in results).items():
        ATTEMPTS.labels(channel, outcome).inc(count)
    for result in results:
        SEND_SECONDS.labels(result.channel).observe((result.finished_at - result.started_at).total_seconds())


def count_steps(results: Mapping[StepResult, int]) -> None:
    """Count later steps that were due."""
    for result, count in results.items():
        STEPS.labels(result.value).inc(count)


def count_digests(closed: Sequence[ClosedDigest]) -> None:
    """Count closed digests and their items."""
    for digest in closed:
        DIGESTS.labels((DigestState.EMPTY if digest.notification_id is None else DigestState.CLOSED).value).inc()
    for state, count in Tally(item.state for digest in closed for item in digest.items).items():
        DIGEST_ITEMS.labels(state.value).inc(count)


def count_recurring_run(state: RunState) -> None:
    """Count a run of a recurring notification that ended."""
    RECURRING_RUNS.labels(state.value).inc()


def register_gauge(gauge: Gauge, read_value: Callable[[], float]) -> None:
    """Register the source of a gauge. It replaces an earlier one."""
    _callbacks[str(gauge), ""] = lambda: gauge.set(read_value())


def register_cache(name: str, stats: Callable[[], CacheStats]) -> None:
    """Register a cache whose look-ups are counted. `stats` returns totals since the start."""
    hits, misses = CACHE_LOOKUPS.labels(name, "hit"), CACHE_LOOKUPS.labels(name, "miss")
    last = CacheStats(0, 0)

    def update() -> None:
        nonlocal last
        current = stats()
        hits.inc(max(0, current.hits - last.hits))
        misses.inc(max(0, current.misses - last.misses))
        last = current

    _callbacks[str(CACHE_LOOKUPS), name] = update


def register_breakers(is_open: Callable[[], Mapping[str, bool]]) -> None:
    """Register the circuit breakers of this process. `is_open` returns: target → whether a circuit is open.

    Its targets are bounded by the configuration, and a target that it returned once it returns always.
    """

    def update() -> None:
        for push_host, open_now in is_open().items():
            OPEN_BREAKERS.labels(push_host).set(open_now)

    _callbacks[str(OPEN_BREAKERS), ""] = update


def register_providers(channels: Mapping[str, Channel]) -> None:
    """Register the providers of the channels. They are bounded by the configuration, and totals never fall."""
    last: dict[tuple[str, str], ProviderStatus] = {}

    def update() -> None:
        for status in list_providers(channels):
            key = status.channel, status.name
            before = last.get(key)
            totals = status.requests_total, status.errors_total, status.outages_total
            earlier = (before.requests_total, before.errors_total, before.outages_total) if before else (0, 0, 0)
            for counter, total, old in zip(
                (PROVIDER_REQUESTS, PROVIDER_ERRORS, PROVIDER_OUTAGES), totals, earlier, strict=True
            ):
                counter.labels(*key).inc(max(0, total - old))
            last[key] = status

    _callbacks[str(PROVIDER_REQUESTS), ""] = update


def collect() -> None:
    """Update the metrics with a registered source."""
    for update in _callbacks.values():
        update()


def count_recorded_outcomes() -> Tally[str]:
    """Return the number of outcomes that this process has recorded, per kind."""
    counts = Tally[str]()
    for metric in ATTEMPTS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                counts[sample.labels["outcome"]] += int(sample.value)
    return counts


def has_unwritten_outcomes() -> bool:
    """Return whether this process has outcomes that are not written yet, and so are not counted as recorded."""
    collect()
    return any(sample.value for metric in UNWRITTEN_OUTCOMES.collect() for sample in metric.samples)
