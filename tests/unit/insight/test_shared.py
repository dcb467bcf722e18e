"""Metrics of several processes add up, once, whoever comes and goes."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidings.insight.shared import SharedMetrics

#: counts once and prints; then counts again for each line it is given, and prints the sum of all processes
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
from tidings.insight.shared import SharedMetrics
shared = SharedMetrics(Path(sys.argv[1]))
from tidings.insight import counters
counters.reads(counters.IN_FLIGHT, lambda: 3)
def count():
    counters.ATTEMPTS.labels("webpush", "delivered").inc()
    counters.SECONDS.labels("webpush").observe(0.02)
    counters.refresh()
count()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "count":
        count()
    print(shared.text().decode().replace("\\n", "|"), flush=True)
"""


class Died(Exception):
    """The process ended instead of answering."""


class Counting:
    """A process that counts; with `dies_after` one that ends when it renames a file once more than that."""

    def __init__(self, folder: Path, dies_after: int | None = None) -> None:
        last = [] if dies_after is None else [str(dies_after)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(folder), *last],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, what: str = "show") -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        text = self._process.stdout.readline().replace("|", "\n")
        if not text:
            raise Died
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


def test_whoever_is_asked_shows_the_sum(folder: Path) -> None:
    one, other = Counting(folder), Counting(folder)
    try:
        other.ask("count")
        for process in (one, other):
            shown = process.ask()
            assert shown["tidings_attempts_total"] == 3
            assert shown["tidings_send_seconds_count"] == 3
            assert shown["tidings_send_seconds_bucket0.025"] == 3
            assert shown["tidings_send_seconds_bucket0.01"] == 0
            assert shown["tidings_sends_in_flight"] == 6
    finally:
        one.kill()
        other.kill()


def test_what_the_dead_counted_stays_and_their_files_do_not(folder: Path) -> None:
    survivor = Counting(folder)
    try:
        for number in range(3):
            dead = Counting(folder)
            dead.kill()
            shown = survivor.ask()
            assert shown["tidings_attempts_total"] == 2 + number
            assert shown["tidings_send_seconds_bucket+Inf"] == 2 + number
            # what it was doing, it does no more
            assert shown["tidings_sends_in_flight"] == 3
            # own counters, histograms and gauges, and the archive
            assert len(list(folder.glob("*.db"))) == 5
            assert len(list(folder.glob("*.lock"))) == 1
    finally:
        survivor.kill()


@pytest.mark.parametrize("after", [0, 1, 2])
def test_whoever_is_killed_while_burying_counts_nothing_twice_and_loses_nothing(folder: Path, after: int) -> None:
    Counting(folder).kill()
    # the first to bury dies before, between or after the two steps that must not be seen apart
    undertaker = Counting(folder, after)
    with pytest.raises(Died):
        undertaker.ask()
    undertaker.kill()
    survivor = Counting(folder)
    try:
        for _ in range(2):
            shown = survivor.ask()
            assert shown["tidings_attempts_total"] == 3
            assert shown["tidings_send_seconds_count"] == 3
        assert sorted(file.name for file in folder.glob("*_archive.*")) == [
            "counter_archive.db",
            "histogram_archive.db",
        ]
    finally:
        survivor.kill()


def test_it_is_made_before_any_metric(folder: Path) -> None:
    from tidings.insight import counters

    assert counters.ATTEMPTS
    with pytest.raises(RuntimeError, match="before it was known"):
        SharedMetrics(folder)
