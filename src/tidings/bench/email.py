"""`tidings bench email`: throughput from a request over the API to the last recorded outcome, into an SMTP sink.

It runs the sink, `tidings serve` (on PostgreSQL `tidings api` and `tidings worker` processes) and a real database. Two
loads are measured: one notification to all users, and one notification per user with a text of its own, as a shop
sends them. Figures are of one run: run it several times and compare medians.
"""

import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec

from tidings.bench.audience import add_users, analyze
from tidings.bench.backends import Backends, require_empty_database, select_backends
from tidings.bench.load import ATTEMPTS_METRIC, LoadUsage, measure_load, wait_until_recorded
from tidings.bench.load_client import build_post_request, send_all
from tidings.bench.process_stats import measure_tree_usage
from tidings.bench.report import Latency, to_camel_case
from tidings.bench.server_process import API_KEY, RunningServer, run_server
from tidings.bench.smtp_sink import SpawnedSink, spawn
from tidings.container import AppContainer
from tidings.errors import TidingsError

#: time limit of a load: seconds per message, in addition to 60 seconds
_SECONDS_PER_MESSAGE: Final = 0.05
#: single notifications before the measurement; they open connections and compile templates
_WARM_UP_COUNT: Final = 10
#: seconds between two readings of the metrics, which cost the server some milliseconds
_METRICS_INTERVAL: Final = 0.05
_LINES_PER_REQUEST: Final = 1_000


@dataclass(frozen=True, slots=True)
class MailLoadResult:
    """Figures of one load."""

    messages: int
    #: from the first request to the last recorded outcome
    seconds: float
    messages_per_second: float
    #: SQL statements of all processes in that time, including background tasks
    queries: int
    #: of all processes except the sink and the database
    cpu_seconds: float
    sink_cpu_seconds: float
    #: accepted by the sink more than once
    duplicates: int


@dataclass(frozen=True, slots=True)
class EmailBenchResult:
    """The figures of one run of `tidings bench email`. Field names are those of the JSON output, in snake case."""

    #: one notification to all users
    broadcast: MailLoadResult
    #: one notification per user, each with a text of its own
    individual: MailLoadResult
    #: single notifications on an idle system, from sending the request to the acceptance by the sink
    latency_ms: Latency
    #: of the largest process
    peak_memory_mb: float
    #: of all processes, to the sink
    connections: int
    reply_delay_ms: float
    workers: int
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(
    *,
    recipients: int,
    connections: int = 10,
    reply_delay_ms: float = 0.0,
    workers: int | None = None,
    singles: int = 50,
    folder: Path | None = None,
) -> EmailBenchResult:
    """Measure `singles` single notifications, then the two loads, each with one message per recipient.

    Arguments: connections — to the sink, per process; reply_delay_ms — milliseconds from each command to the reply of
    the sink; workers — `tidings worker` processes on PostgreSQL (default: cores), no effect on SQLite. The folder, the
    database and the errors are those of `bench.push.run`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with spawn(reply_delay_ms=reply_delay_ms) as sink:
            variables = {
                "TIDINGS_SMTP_URL": f"smtp://127.0.0.1:{sink.port}",
                "TIDINGS_EMAIL_FROM": "Benchmark <bench@mail.example>",
                "TIDINGS_EMAIL__CONNECTIONS": str(connections),
            }
            async with select_backends(Path(data), variables=variables) as backends:
                user_ids = await _prepare_users(backends, recipients)
                workers = _count_workers(backends, workers)
                async with run_server(backends, workers=workers) as server:
                    await _measure_singles(server, sink, user_ids[0], _WARM_UP_COUNT)
                    latency = await _measure_singles(server, sink, user_ids[0], singles)
                    figures, broadcast = await _measure_load(server, sink, recipients, lambda: _notify_all(server))
                    last, individual = await _measure_load(
                        server, sink, recipients, lambda: _notify_each(server, user_ids)
                    )
                    return EmailBenchResult(
                        broadcast=broadcast,
                        individual=individual,
                        latency_ms=latency,
                        peak_memory_mb=max(figures.max_memory, last.max_memory),
                        connections=(await sink.stats()).connections,
                        reply_delay_ms=reply_delay_ms,
                        workers=workers,
                        database=backends.database,
                        queue=backends.queue,
                        cores=os.cpu_count() or 1,
                    )


def _count_workers(backends: Backends, workers: int | None) -> int:
    if not backends.is_scaled:
        return 0
    return (os.cpu_count() or 1) if workers is None else workers


async def _prepare_users(backends: Backends, recipients: int) -> Sequence[str]:
    async with AppContainer.open(backends.settings) as runtime:
        await require_empty_database(runtime)
        user_ids = await add_users(runtime, recipients, email_domain="mail.example")
        await analyze(runtime)
        return user_ids


async def _measure_load(
    server: RunningServer, sink: SpawnedSink, messages: int, start: Callable[[], Awaitable[object]]
) -> tuple[LoadUsage, MailLoadResult]:
    await sink.reset()
    sink_cpu_before = measure_tree_usage(sink.pid).cpu_seconds
    figures = await measure_load(server, start, lambda before: _wait_for_load(server, sink, before, messages))
    stats = await sink.stats()
    return figures, MailLoadResult(
        messages=messages,
        seconds=round(figures.seconds, 3),
        messages_per_second=round(messages / figures.seconds, 1),
        queries=figures.queries,
        cpu_seconds=figures.cpu_seconds,
        sink_cpu_seconds=round(measure_tree_usage(sink.pid).cpu_seconds - sink_cpu_before, 2),
        duplicates=stats.accepted - stats.distinct,
    )


async def _wait_for_load(server: RunningServer, sink: SpawnedSink, before: float, messages: int) -> None:
    """Wait for the sink first, because reading the server's metrics would slow the server down."""
    timeout = 60 + messages * _SECONDS_PER_MESSAGE
    stats = await sink.wait_for(messages, seconds=timeout)
    if stats.distinct != messages:
        raise TidingsError(f"the sink accepted {stats.distinct} of {messages} messages within {timeout:.0f} s")
    await wait_until_recorded(server, before + messages, interval=_METRICS_INTERVAL)


async def _notify_all(server: RunningServer) -> None:
    body = _build_body({"audience": {"kind": "everyone"}}, "Doors open at seven")
    await server.request("POST", "/api/notifications", body)


async def _notify_each(server: RunningServer, user_ids: Sequence[str]) -> None:
    lines = [
        msgspec.json.encode(_build_body({"userId": user_id}, f"Order {number} was shipped"))
        for number, user_id in enumerate(user_ids)
    ]
    requests = [
        build_post_request(
            "/api/notifications/batch",
            b"\n".join(lines[start : start + _LINES_PER_REQUEST]),
            key=API_KEY,
            media_type="application/x-ndjson",
        )
        for start in range(0, len(lines), _LINES_PER_REQUEST)
    ]
    await send_all(server.base_url, requests, clients=2)


async def _measure_singles(server: RunningServer, sink: SpawnedSink, user_id: str, count: int) -> Latency:
    """Send single notifications one at a time, each after the outcome of the previous one is recorded."""
    await sink.reset()
    attempts_before = await server.metric(ATTEMPTS_METRIC)
    latencies_ms = []
    for number in range(1, count + 1):
        # urgent notifications are exempt from the user's rate limit
        body = _build_body({"userId": user_id}, f"Code {number}", priority="urgent")
        sent_at = time.time()
        await server.request("POST", "/api/notifications", body)
        stats = await sink.wait_for(number, seconds=30)
        if stats.last_at is None or stats.distinct < number:
            raise TidingsError(f"single notification {number} did not reach the sink in time")
        latencies_ms.append((stats.last_at - sent_at) * 1000)
        await wait_until_recorded(server, attempts_before + number)
    return Latency.from_milliseconds(latencies_ms)


def _build_body(recipients: dict[str, object], title: str, *, priority: str = "normal") -> dict[str, object]:
    return {
        **recipients,
        "templateCode": "MESSAGE",
        "variables": {"title": title, "body": "See you tonight.\n\nThe bar opens an hour earlier."},
        "options": {"priority": priority, "channels": ["email"]},
    }
