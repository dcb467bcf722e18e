"""`tidings bench push`: throughput from an event update over the API to the last recorded outcome.

It runs the mock push service, `tidings serve` (on PostgreSQL `tidings api` and `tidings worker` processes) and a real
database. Figures are of one run: run it several times and compare medians. The broadcast ends when the counter of
recorded outcomes in `/metrics` reaches the number of messages.
"""

import asyncio
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from tidings.bench.audience import prepare_audience, single_user_id
from tidings.bench.backends import Backends, select_backends
from tidings.bench.load import ATTEMPTS_METRIC, ProcessResult, measure_load, wait_until_recorded
from tidings.bench.process_stats import measure_tree_usage
from tidings.bench.report import Latency, show_progress, to_camel_case
from tidings.bench.server_process import RunningServer, run_server
from tidings.errors import TidingsError
from tidings.mockpush import MockPushOptions, SpawnedMockPush, spawn

#: time limit of a broadcast: seconds per recipient, in addition to 30 seconds
_SECONDS_PER_RECIPIENT = 0.01
#: single notifications before the measurement; they open connections and compile templates
_WARM_UP_COUNT = 20


@dataclass(frozen=True, slots=True)
class PushBenchResult:
    """The figures of one run of `tidings bench push`. Field names are those of the JSON output, in snake case."""

    recipients: int
    messages: int
    #: from sending the PATCH request to the last recorded outcome
    seconds: float
    messages_per_second: float
    #: SQL statements of all processes in that time, including background tasks
    queries: int
    #: single notifications on an idle system, from sending the request to the receipt by the push service
    latency_ms: Latency
    #: of the largest process
    peak_memory_mb: float
    #: of all processes except the push service and the database, during the broadcast
    cpu_seconds: float
    processes: Mapping[str, ProcessResult]
    #: of the push service, during the broadcast
    sink_cpu_seconds: float
    #: accepted by the push service more than once
    duplicates: int
    workers: int
    database: str
    queue: str
    cores: int
    versions: Mapping[str, str]

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(
    *, recipients: int, workers: int | None = None, singles: int = 100, folder: Path | None = None
) -> PushBenchResult:
    """Measure `singles` single notifications, then a broadcast to `recipients` users with one device each.

    Arguments: workers — sender processes of the server (default: cores - 1), or on PostgreSQL `tidings worker`
    processes (default: cores); folder — parent of the data folder (default: the system's folder for temporary files).
    The database is a new SQLite file, or that of `TIDINGS_DATABASE` and `TIDINGS_REDIS`.
    Raises TidingsError if a process does not start or messages are missing, ConfigError for a database that is in use.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with (
            spawn(MockPushOptions(verify_share=0.0)) as sink,
            select_backends(Path(data), push_host=urlsplit(sink.origin).netloc) as backends,
        ):
            event_id = await prepare_audience(backends, recipients=recipients, origin=sink.origin, singles=1)
            workers = default_workers(backends) if workers is None else workers
            async with run_server(backends, workers=workers) as server:
                await _measure_singles(server, sink, _WARM_UP_COUNT)
                latency = await _measure_singles(server, sink, singles)
                return await _measure_broadcast(server, sink, backends, event_id, recipients, workers, latency)


def default_workers(backends: Backends) -> int:
    """Return the default number of worker processes (PostgreSQL) or sender processes (SQLite)."""
    cores = os.cpu_count() or 1
    return cores if backends.is_scaled else cores - 1


async def _measure_broadcast(
    server: RunningServer,
    sink: SpawnedMockPush,
    backends: Backends,
    event_id: str,
    recipients: int,
    workers: int,
    latency: Latency,
) -> PushBenchResult:
    await sink.control.reset()
    sink_cpu_before = measure_tree_usage(sink.pid).cpu_seconds
    new_start = datetime.now(UTC) + timedelta(days=31)
    figures = await measure_load(
        server,
        lambda: server.request("PATCH", f"/api/events/{event_id}", {"startDate": new_start.isoformat()}),
        lambda attempts_before: _wait_for_broadcast(server, sink, attempts_before, recipients),
    )
    stats = await sink.control.stats()
    if stats.distinct != recipients:
        raise TidingsError(f"{recipients} outcomes were recorded, but the push service received {stats.distinct}")
    return PushBenchResult(
        recipients=recipients,
        messages=stats.accepted,
        seconds=round(figures.seconds, 3),
        messages_per_second=round(recipients / figures.seconds, 1),
        queries=figures.queries,
        latency_ms=latency,
        peak_memory_mb=figures.max_memory,
        cpu_seconds=figures.cpu_seconds,
        processes=figures.processes,
        sink_cpu_seconds=round(measure_tree_usage(sink.pid).cpu_seconds - sink_cpu_before, 2),
        duplicates=stats.duplicates,
        workers=workers,
        database=backends.database,
        queue=backends.queue,
        cores=os.cpu_count() or 1,
        versions=_versions(),
    )


async def _wait_for_broadcast(server: RunningServer, sink: SpawnedMockPush, before: float, recipients: int) -> None:
    """Wait for all pushes to be received and for all outcomes to be recorded.

    It waits for the push service first, because polling the server's metrics would slow the server down.
    """
    timeout = 30 + recipients * _SECONDS_PER_RECIPIENT
    try:
        async with asyncio.timeout(timeout):
            await _wait_for_receipts(sink, recipients, timeout)
            await wait_until_recorded(server, before + recipients)
    except TimeoutError:
        missing = before + recipients - await server.metric(ATTEMPTS_METRIC)
        raise TidingsError(f"{missing:.0f} outcomes were not recorded within {timeout:.0f} s") from None


async def _wait_for_receipts(
    sink: SpawnedMockPush,
    recipients: int,
    timeout: float,  # noqa: ASYNC109  # passed on to the control API
) -> None:
    with show_progress(f"Notifying {recipients} recipients", recipients) as report:
        if report is None:
            await sink.control.wait_for(timeout=timeout, distinct=recipients)
            return
        received = 0
        while received < recipients:
            with suppress(TimeoutError):
                await sink.control.wait_for(timeout=0.5, distinct=recipients)
            received = (await sink.control.stats()).distinct
            report(received)


async def _measure_singles(server: RunningServer, sink: SpawnedMockPush, count: int) -> Latency:
    """Send single notifications one at a time, each after the outcome of the previous one is recorded."""
    latencies_ms = []
    attempts_before = await server.metric(ATTEMPTS_METRIC)
    for number in range(count):
        accepted_before = (await sink.control.stats()).accepted
        sent_at = time.time()
        body = {
            "userId": single_user_id(0),
            "templateCode": "MESSAGE",
            "variables": {"title": "Hello", "body": f"No {number}"},
            # urgent notifications are exempt from the user's rate limit
            "options": {"priority": "urgent"},
        }
        await server.request("POST", "/api/notifications", body)
        try:
            stats = await sink.control.wait_for(accepted=accepted_before + 1)
        except TimeoutError as error:
            raise TidingsError(f"single notification {number} did not reach the push service in time") from error
        assert stats.last_at is not None, "a message was just accepted"
        latencies_ms.append((stats.last_at - sent_at) * 1000)
        await wait_until_recorded(server, attempts_before + number + 1)
    return Latency.from_milliseconds(latencies_ms)


def _versions() -> Mapping[str, str]:
    packages = ("tidings", "cryptography", "pyreqwest", "sqlalchemy", "uvloop")
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }
