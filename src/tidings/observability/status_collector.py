"""The system status as Prometheus gauges, computed when they are requested and not while sending."""

from collections import Counter as Tally
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tidings.model.alert import Alert, AlertName
from tidings.observability.system_status import (
    MAX_DEAD_LETTERS_COUNTED,
    MAX_OPEN_DIGESTS_COUNTED,
    PROCESS_KINDS,
    WORKER_KINDS,
    QueueStatus,
    is_stuck,
)
from tidings.ports.operations import Process

_STATES = ("waiting", "active", "delayed", "failed")


class SystemStatusCollector(Collector):
    """Yields the gauges of the last status query. None = the query failed."""

    def __init__(
        self,
        queue: QueueStatus | None = None,
        processes: Sequence[Process] | None = None,
        dead_letters: int | None = None,
        alerts: Sequence[Alert] = (),
        open_digests: int | None = None,
        *,
        is_queue_up: bool = False,
    ) -> None:
        """`is_queue_up`: whether the queue responds, which `queue` does not show while the database is unavailable."""
        self._queue = queue
        self._processes = processes
        self._dead_letters = dead_letters
        self._alerts = alerts
        self._open_digests = open_digests
        self._is_queue_up = is_queue_up

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges. A family without data is omitted, so alert on its absence."""
        up = GaugeMetricFamily("tidings_up", "Whether a back end responds", labels=["backend"])
        up.add_metric(["database"], float(self._queue is not None))
        up.add_metric(["queue"], float(self._is_queue_up))
        yield up
        yield _alert_gauge(self._alerts)
        if self._queue is not None:
            yield from _queue_gauges(self._queue)
        if self._processes is not None:
            yield from _process_gauges(self._processes)
        if self._dead_letters is not None:
            help_text = f"Dead letters, counted up to {MAX_DEAD_LETTERS_COUNTED}"
            yield GaugeMetricFamily("tidings_dead_letters", help_text, value=self._dead_letters)
        if self._open_digests is not None:
            help_text = f"Digests that collect, counted up to {MAX_OPEN_DIGESTS_COUNTED}"
            yield GaugeMetricFamily("tidings_digests_open", help_text, value=self._open_digests)


def _alert_gauge(alerts: Sequence[Alert]) -> GaugeMetricFamily:
    # by name only: the subjects contain host names, whose number is unbounded
    counts = Tally(alert.name for alert in alerts)
    gauge = GaugeMetricFamily("tidings_alerts", "Operator alerts of all processes", labels=["alert"])
    for name in AlertName:
        gauge.add_metric([name.value], counts[name])
    return gauge


def _queue_gauges(queue: QueueStatus) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "tidings_outbox_age_seconds", "Age of the oldest due task that is not in the queue", value=queue.outbox_age
    )
    tasks = GaugeMetricFamily(
        "tidings_queue_tasks", "Tasks in a lane, jobs in the intake queue", labels=["lane", "state"]
    )
    oldest = GaugeMetricFamily("tidings_queue_oldest_seconds", "Age of the oldest waiting task", labels=["lane"])
    rate = GaugeMetricFamily("tidings_queue_rate", "Tasks completed per second over the last minute", labels=["lane"])
    rows = [(lane.value, stats, queue.lag[lane]) for lane, stats in queue.lanes.items()]
    if queue.external_stats is not None:
        rows.append(("intake", queue.external_stats, queue.external_lag))
    for name, stats, lag in rows:
        for state in _STATES:
            tasks.add_metric([name, state], getattr(stats, state))
        oldest.add_metric([name], lag)
        rate.add_metric([name], stats.rate)
    yield from (tasks, oldest, rate)


def _process_gauges(processes: Sequence[Process]) -> Iterator[GaugeMetricFamily]:
    live = GaugeMetricFamily("tidings_processes", "Processes with a heartbeat within 30 seconds", labels=["kind"])
    counts = Tally(process.kind for process in processes)
    # also the kinds without a process, for alarms
    for kind in sorted({*PROCESS_KINDS, *counts}):
        live.add_metric([kind], counts[kind])
    stuck = sum(is_stuck(process) for process in processes if process.kind in WORKER_KINDS)
    yield live
    yield GaugeMetricFamily(
        "tidings_workers_stuck", "Workers with a heartbeat whose background tasks are stuck", value=stuck
    )
