"""`tidings bench push`: an event update through the API → the last outcome recorded, against the mock push service.

Three real processes (this one, the server, the push service) and a real database file. Figures are of one run: run it
several times and compare medians. The clock of the broadcast ends when the server's counter of recorded outcomes
reaches the number of messages (`/metrics`, which asks the database nothing).
"""

import asyncio
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from tidings.bench.people import prepare
from tidings.bench.processes import cost_of
from tidings.bench.serving import Served, serving
from tidings.errors import BackendError
from tidings.testing.mock_push import MockPushOptions, SpawnedMockPush, spawn

_RECORDED = "tidings_attempts_total"
_STATEMENTS = "tidings_sql_statements"
#: seconds per recipient after which a broadcast counts as stuck, on top of half a minute
_PATIENCE = 0.01


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of `tidings bench push` measured. Field names are those of the JSON output, in snake case."""

    recipients: int
    messages: int
    #: from sending the PATCH to the last outcome recorded
    seconds: float
    messages_per_second: float
    #: SQL statements of the server meanwhile, all of them
    queries: int
    #: single notifications on an idle system: request sent → received by the push service
    latency_ms: Latency
    #: the largest process of the server
    peak_memory_mb: float
    #: of the server and its sender processes, during the broadcast
    cpu_seconds: float
    #: of the push service, during the broadcast
    sink_cpu_seconds: float
    #: accepted by the push service more than once
    duplicates: int
    workers: int
    cores: int
    versions: Mapping[str, str]

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return {_camel(name): _plain(value) for name, value in asdict(self).items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _plain(value: object) -> object:
    return {_camel(key): one for key, one in value.items()} if isinstance(value, dict) else value


async def run(
    *, recipients: int, workers: int | None = None, singles: int = 100, folder: Path | None = None
) -> Figures:
    """Measure one broadcast to `recipients` users with a device each, then `singles` single notifications.

    workers: sender processes beside the server (0 = none; default: one less than there are cores).
    folder: where the database goes (default: a temporary one).
    Raises BackendError when something does not start or messages are missing.
    """
    workers = (os.cpu_count() or 1) - 1 if workers is None else workers
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with spawn(MockPushOptions(verify_share=0.0)) as sink:
            event_id = await prepare(Path(data), recipients=recipients, origin=sink.origin)
            async with serving(Path(data), push_host=urlsplit(sink.origin).netloc, workers=workers) as server:
                await _singles(server, sink, 20)  # warm up: connections, compiled templates
                latency = await _singles(server, sink, singles)
                return await _broadcast(server, sink, event_id, recipients, workers, latency)


async def _broadcast(
    server: Served, sink: SpawnedMockPush, event_id: str, recipients: int, workers: int, latency: Latency
) -> Figures:
    await sink.control.reset()
    recorded = await server.metric(_RECORDED)
    statements = await server.metric(_STATEMENTS)
    cpu, sink_cpu = cost_of(server.pid).cpu_seconds, cost_of(sink.pid).cpu_seconds
    new_start = datetime.now(UTC) + timedelta(days=31)
    started = time.perf_counter()
    await server.request("PATCH", f"/api/events/{event_id}", {"startDate": new_start.isoformat()})
    await _until(server, sink, recorded, recipients)
    seconds = time.perf_counter() - started
    cost = cost_of(server.pid)
    queries = await server.metric(_STATEMENTS) - statements
    stats = await sink.control.stats()
    if stats.distinct != recipients:
        raise BackendError(f"{recipients} messages were recorded, but the push service got {stats.distinct}")
    return Figures(
        recipients=recipients,
        messages=stats.accepted,
        seconds=round(seconds, 3),
        messages_per_second=round(recipients / seconds, 1),
        queries=int(queries),
        latency_ms=latency,
        peak_memory_mb=round(cost.peak_memory_mb, 1),
        cpu_seconds=round(cost.cpu_seconds - cpu, 2),
        sink_cpu_seconds=round(cost_of(sink.pid).cpu_seconds - sink_cpu, 2),
        duplicates=stats.duplicates,
        workers=workers,
        cores=os.cpu_count() or 1,
        versions=_versions(),
    )


async def _until(server: Served, sink: SpawnedMockPush, before: float, recipients: int) -> None:
    """Wait without a burden on the server: first for the push service to have everything, then for the last outcome."""
    patience = 30 + recipients * _PATIENCE
    try:
        async with asyncio.timeout(patience):
            await sink.control.wait_for(timeout=patience, distinct=recipients)
            await _until_recorded(server, before + recipients)
    except TimeoutError:
        missing = before + recipients - await server.metric(_RECORDED)
        raise BackendError(f"{missing:.0f} outcomes were not recorded within {patience:.0f} s") from None


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
            "userId": "u0000000",
            "templateCode": "MESSAGE",
            "variables": {"title": "Hello", "body": f"No {number}"},
        }
        await server.request("POST", "/api/notifications", body)
        try:
            stats = await sink.control.wait_for(accepted=before + 1)
        except TimeoutError as error:
            raise BackendError(f"single notification {number} did not reach the push service in time") from error
        assert stats.last_at is not None, "one was just accepted"
        took.append((stats.last_at - sent) * 1000)
        await _until_recorded(server, recorded + number + 1)
    return _latency(took)


def _latency(milliseconds: Sequence[float]) -> Latency:
    if len(milliseconds) < 2:
        only = round(milliseconds[0], 2) if milliseconds else 0.0
        return Latency(only, only)
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return Latency(round(cuts[49], 2), round(cuts[98], 2))


def _versions() -> Mapping[str, str]:
    packages = ("tidings", "cryptography", "pyreqwest", "sqlalchemy", "uvloop")
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }
