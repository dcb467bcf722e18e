"""Metrics of several processes are summed exactly once, also when processes start and end."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidings.observability.multiprocess_metrics import SharedMetrics

#: counts once and prints "ready"; then prints the sum of all processes for each input line, counting again for "count"
_PROCESS = """
import os, sys
from pathlib import Path
renamed, rename = 0, Path.rename
def dying(path, target):
    global renamed
    if renamed == limit:
        os._exit(1)
    renamed += 1
    return rename(path, target)
if len(sys.argv) > 2:
    limit = int(sys.argv[2])
    Path.rename = dying
from tidings.observability.multiprocess_metrics import SharedMetrics
shared = SharedMetrics(Path(sys.argv[1]))
from tidings.observability import metrics
metrics.register_gauge(metrics.SENDS_IN_FLIGHT, lambda: 3)
def count():
    metrics.ATTEMPTS.labels("webpush", "delivered").inc()
    metrics.SEND_SECONDS.labels("webpush").observe(0.02)
    metrics.collect()
count()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "count":
        count()
    print(shared.render().decode().replace("\\n", "|"), flush=True)
"""


class ProcessDied(Exception):
    """The process ended without a response."""


class CountingProcess:
    """A process that counts. It exits at the renaming of a file after `dies_after` others."""

    def __init__(self, folder: Path, dies_after: int | None = None) -> None:
        last = [] if dies_after is None else [str(dies_after)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(folder), *last],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.communicate()
            raise ProcessDied

    def send(self, what: str = "show") -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        text = self._process.stdout.readline().replace("|", "\n")
        if not text:
            raise ProcessDied
        return {
            f"{sample.name}{sample.labels.get('le', '')}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "metrics"


def test_every_process_reports_the_sum(folder: Path) -> None:
    one, other = CountingProcess(folder), CountingProcess(folder)
    try:
        other.send("count")
        for process in (one, other):
            shown = process.send()
            assert shown["tidings_attempts_total"] == 3
            assert shown["tidings_send_seconds_count"] == 3
            assert shown["tidings_send_seconds_bucket0.025"] == 3
            assert shown["tidings_send_seconds_bucket0.01"] == 0
            assert shown["tidings_sends_in_flight"] == 6
    finally:
        one.kill()
        other.kill()


def test_counts_of_ended_processes_stay_and_their_files_are_removed(folder: Path) -> None:
    survivor = CountingProcess(folder)
    try:
        for number in range(3):
            dead = CountingProcess(folder)
            dead.kill()
            shown = survivor.send()
            assert shown["tidings_attempts_total"] == 2 + number
            assert shown["tidings_send_seconds_bucket+Inf"] == 2 + number
            # an ended process has nothing in flight
            assert shown["tidings_sends_in_flight"] == 3
            # the process's own counters, histograms and gauges, and the archive of ended processes
            assert len(list(folder.rglob("*.db"))) == 5
            assert len(list(folder.rglob("lock"))) == 2
    finally:
        survivor.kill()


@pytest.mark.parametrize("after", [0, 1])
def test_a_kill_during_archiving_neither_loses_nor_duplicates_counts(folder: Path, after: int) -> None:
    CountingProcess(folder).kill()
    # the process dies before the first archived file, or between two of them
    with pytest.raises(ProcessDied):
        CountingProcess(folder, after)
    survivor = CountingProcess(folder)
    try:
        for _ in range(2):
            shown = survivor.send()
            assert shown["tidings_attempts_total"] == 2
            assert shown["tidings_send_seconds_count"] == 2
            assert shown["tidings_sends_in_flight"] == 3
        assert len(list(folder.rglob("*.db"))) == 3
    finally:
        survivor.kill()


def test_shared_metrics_are_created_before_any_metric(folder: Path) -> None:
    from tidings.observability import metrics

    assert metrics.ATTEMPTS
    with pytest.raises(RuntimeError, match="before prometheus_client is imported"):
        SharedMetrics(folder)
