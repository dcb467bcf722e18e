"""`tidings bench push`: an event update through the API → the last outcome recorded, against the mock push service.

Real processes (this one, the push service, and `tidings serve`, or on PostgreSQL `tidings api` and `tidings worker`s)
and a real database. Figures are of one run: run it several times and compare medians. The clock of the broadcast ends
when the counter of recorded outcomes reaches the number of messages (`/metrics`).
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

from tidings.bench.backends import Backends, backends
from tidings.bench.figures import Latency, camel
from tidings.bench.people import prepare, single
from tidings.bench.processes import cost_of
from tidings.bench.progress import progress
from tidings.bench.serving import Served, serving
from tidings.errors import TidingsError
from tidings.testing.mock_push import MockPushOptions, SpawnedMockPush, spawn

_RECORDED = "tidings_attempts_total"
_STATEMENTS = "tidings_sql_statements"
#: seconds per recipient after which a broadcast counts as stuck, on top of half a minute
_PATIENCE = 0.01
#: single notifications before the measured ones: connections, compiled templates
_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """What one process cost, with the sender processes it started."""

    #: from the start of the process, of the largest one
    peak_memory_mb: float
    #: during the broadcast
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of `tidings bench push` measured. Field names are those of the JSON output, in snake case."""

    recipients: int
    messages: int
    #: from sending the PATCH to the last outcome recorded
    seconds: float
    messages_per_second: float
    #: SQL statements of all processes meanwhile, the timers' looks included
    queries: int
    #: single notifications on an idle system: request sent → received by the push service
    latency_ms: Latency
    #: of the largest process
    peak_memory_mb: float
    #: of all processes apart from the push service and the database, during the broadcast
    cpu_seconds: float
    processes: Mapping[str, ProcessFigures]
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
        return camel(asdict(self))


async def run(
    *, recipients: int, workers: int | None = None, singles: int = 100, folder: Path | None = None
) -> Figures:
    """Measure one broadcast to `recipients` users with a device each, then `singles` single notifications.

    workers: sender processes beside the server (0 = none; default: one less than there are cores), or on PostgreSQL
    `tidings worker` processes (default: as many as cores). folder: where the data go (default: a temporary one). The
    database is a new SQLite file, or what `TIDINGS_DATABASE` and `TIDINGS_REDIS` name.
    Raises TidingsError when something does not start or messages are missing, ConfigError for a database in use.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with (
            spawn(MockPushOptions(verify_share=0.0)) as sink,
            backends(Path(data), push_host=urlsplit(sink.origin).netloc) as chosen,
        ):
            event_id = await prepare(chosen, recipients=recipients, origin=sink.origin, singles=1)
            workers = default_workers(chosen) if workers is None else workers
            async with serving(chosen, workers=workers) as server:
                await _singles(server, sink, _WARM_UP)
                latency = await _singles(server, sink, singles)
                return await _broadcast(server, sink, chosen, event_id, recipients, workers, latency)


def default_workers(chosen: Backends) -> int:
    """Return how many processes send when nobody says."""
    cores = os.cpu_count() or 1
    return cores if chosen.scaled else cores - 1


async def _broadcast(
    server: Served,
    sink: SpawnedMockPush,
    chosen: Backends,
    event_id: str,
    recipients: int,
    workers: int,
    latency: Latency,
) -> Figures:
    await sink.control.reset()
    recorded = await server.metric(_RECORDED)
    statements = await server.metric(_STATEMENTS)
    before, sink_cpu = server.costs(), cost_of(sink.pid).cpu_seconds
    new_start = datetime.now(UTC) + timedelta(days=31)
    started = time.perf_counter()
    await server.request("PATCH", f"/api/events/{event_id}", {"startDate": new_start.isoformat()})
    await _until(server, sink, recorded, recipients)
    seconds = time.perf_counter() - started
    costs = {
        name: ProcessFigures(round(cost.peak_memory_mb, 1), round(cost.cpu_seconds - before[name].cpu_seconds, 2))
        for name, cost in server.costs().items()
    }
    queries = await server.metric(_STATEMENTS) - statements
    stats = await sink.control.stats()
    if stats.distinct != recipients:
        raise TidingsError(f"{recipients} messages were recorded, but the push service got {stats.distinct}")
    return Figures(
        recipients=recipients,
        messages=stats.accepted,
        seconds=round(seconds, 3),
        messages_per_second=round(recipients / seconds, 1),
        queries=int(queries),
        latency_ms=latency,
        peak_memory_mb=max(one.peak_memory_mb for one in costs.values()),
        cpu_seconds=round(sum(one.cpu_seconds for one in costs.values()), 2),
        processes=costs,
        sink_cpu_seconds=round(cost_of(sink.pid).cpu_seconds - sink_cpu, 2),
        duplicates=stats.duplicates,
        workers=workers,
        database=chosen.database,
        queue=chosen.queue,
        cores=os.cpu_count() or 1,
        versions=_versions(),
    )


async def _until(server: Served, sink: SpawnedMockPush, before: float, recipients: int) -> None:
    """Wait without a burden on the server: first for the push service to have everything, then for the last outcome."""
    patience = 30 + recipients * _PATIENCE
    try:
        async with asyncio.timeout(patience):
            await _received(sink, recipients, patience)
            await _until_recorded(server, before + recipients)
    except TimeoutError:
        missing = before + recipients - await server.metric(_RECORDED)
        raise TidingsError(f"{missing:.0f} outcomes were not recorded within {patience:.0f} s") from None


async def _received(sink: SpawnedMockPush, recipients: int, patience: float) -> None:
    with progress(f"Telling {recipients} recipients", recipients) as tell:
        if tell is None:
            await sink.control.wait_for(timeout=patience, distinct=recipients)
            return
        got = 0
        while got < recipients:
            with suppress(TimeoutError):
                await sink.control.wait_for(timeout=0.5, distinct=recipients)
            got = (await sink.control.stats()).distinct
            tell(got)


async def _until_recorded(server: Served, count: float) -> None:
    while await server.metric(_RECORDED) < count:  # noqa: ASYNC110  # another process: there is no event to wait for
        await asyncio.sleep(0.01)


async def _singles(server: Served, sink: SpawnedMockPush, count: int) -> Latency:
    """Send single notifications, each when the last one's outcome is recorded: on an idle system."""
    took = []
    recorded = await server.metric(_RECORDED)
    for number in range(count):
        before = (await sink.control.stats()).accepted
        sent = time.time()
        body = {
            "userId": single(0),
            "templateCode": "MESSAGE",
            "variables": {"title": "Hello", "body": f"No {number}"},
            # so many for one user in an hour pass if they are urgent
            "options": {"priority": "urgent"},
        }
        await server.request("POST", "/api/notifications", body)
        try:
            stats = await sink.control.wait_for(accepted=before + 1)
        except TimeoutError as error:
            raise TidingsError(f"single notification {number} did not reach the push service in time") from error
        assert stats.last_at is not None, "one was just accepted"
        took.append((stats.last_at - sent) * 1000)
        await _until_recorded(server, recorded + number + 1)
    return Latency.of(took)


def _versions() -> Mapping[str, str]:
    packages = ("tidings", "cryptography", "pyreqwest", "sqlalchemy", "uvloop")
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }
