"""The standing of the system as Prometheus gauges: computed when asked, never counted along the way of a send."""

from collections import Counter as Tally
from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tidings.insight.standing import DEAD_LETTERS_COUNTED, WORKERS, QueueStanding, is_stuck
from tidings.ports.operations import Process

_STATES = ("waiting", "active", "delayed", "failed")


class Standing(Collector):
    """Shows what was last asked. None = could not be asked."""

    def __init__(
        self,
        queue: QueueStanding | None = None,
        processes: Sequence[Process] | None = None,
        dead_letters: int | None = None,
        *,
        queue_up: bool = False,
    ) -> None:
        """queue_up: whether the queue answers, which `queue` cannot tell while the database does not."""
        self._queue = queue
        self._processes = processes
        self._dead_letters = dead_letters
        self._queue_up = queue_up

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; a family of which nothing is known is left out, an alarm on its absence sees that."""
        up = GaugeMetricFamily("tidings_up", "Whether a backend answers", labels=["backend"])
        up.add_metric(["database"], float(self._queue is not None))
        up.add_metric(["queue"], float(self._queue_up))
        yield up
        if self._queue is not None:
            yield from _of_queue(self._queue)
        if self._processes is not None:
            yield from _of_processes(self._processes)
        if self._dead_letters is not None:
            about = f"Deliveries that were given up; no more than {DEAD_LETTERS_COUNTED} are counted"
            yield GaugeMetricFamily("tidings_dead_letters", about, value=self._dead_letters)


def _of_queue(queue: QueueStanding) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "tidings_outbox_age_seconds", "How long the oldest accepted task waits for the queue", value=queue.outbox_age
    )
    tasks = GaugeMetricFamily("tidings_queue_tasks", "Tasks on a lane, jobs on the intake", labels=["lane", "state"])
    oldest = GaugeMetricFamily("tidings_queue_oldest_seconds", "How long the oldest task waits", labels=["lane"])
    rate = GaugeMetricFamily("tidings_queue_rate", "Tasks done per second over the last minute", labels=["lane"])
    named = [(lane.value, stats, queue.lag[lane]) for lane, stats in queue.lanes.items()]
    if queue.intake is not None:
        named.append(("intake", queue.intake, queue.intake_lag))
    for name, stats, lag in named:
        for state in _STATES:
            tasks.add_metric([name, state], getattr(stats, state))
        oldest.add_metric([name], lag)
        rate.add_metric([name], stats.rate)
    yield from (tasks, oldest, rate)


def _of_processes(processes: Sequence[Process]) -> Iterator[GaugeMetricFamily]:
    seen = GaugeMetricFamily("tidings_processes", "Processes seen within 30 seconds", labels=["kind"])
    for kind, count in sorted(Tally(process.kind for process in processes).items()):
        seen.add_metric([kind], count)
    stuck = sum(is_stuck(process) for process in processes if process.kind in WORKERS)
    yield seen
    yield GaugeMetricFamily("tidings_workers_stuck", "Workers that live but do not work", value=stuck)
