"""`tidings bench`: small runs of each benchmark finish with plausible results and leave no data behind."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec
import pytest
from pyreqwest.client import Client, ClientBuilder
from tests.support.server import eventually

from tidings.bench import email, idle, inapp, lanes, plan, push, queue, release, rooms, server_process, smtp_sink
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer


@pytest.fixture(params=["embedded", pytest.param("scaled", marks=pytest.mark.extended)])
def backends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer, valkey: ValkeyServer
) -> Iterator[str]:
    """The benchmark's back ends: none configured (SQLite), or an empty PostgreSQL and a Valkey."""
    for name in ("TIDINGS_DATABASE", "TIDINGS_REDIS"):
        monkeypatch.delenv(name, raising=False)
    valkey.flush()
    if request.param == "embedded":
        yield request.param
        return
    url = postgres.create_database()
    monkeypatch.setenv("TIDINGS_DATABASE", url)
    monkeypatch.setenv("TIDINGS_REDIS", valkey.url)
    yield request.param
    postgres.drop_database(url)


async def test_bench_plan_plans_the_same_by_the_rules_and_with_the_database(backends: str, tmp_path: Path) -> None:
    figures = await plan.run(recipients=50, folder=tmp_path)
    assert figures.database == {"embedded": "sqlite", "scaled": "postgresql"}[backends]
    # of ten users, one muted the event and one turned the category off on both channels, one the feed
    for planned in (figures.rules, figures.read, figures.stored):
        assert (planned.deliveries, planned.skips) == (80, 20)
        assert planned.recipients_per_second > 0


async def test_bench_push_notifies_each_user_once_and_reports_the_cost_per_process(
    backends: str, tmp_path: Path, valkey: ValkeyServer
) -> None:
    figures = await push.run(recipients=300, workers=1, singles=3, folder=tmp_path)
    assert (figures.messages, figures.duplicates) == (300, 0)
    assert figures.queries > 0
    assert figures.messages_per_second > 0
    assert 0 < figures.latency_ms.p50 <= figures.latency_ms.p99 <= figures.latency_ms.max
    assert set(figures.processes) == ({"serve"} if backends == "embedded" else {"api", "worker 1"})
    assert all(0 < one.peak_memory_mb < 1000 for one in figures.processes.values())
    assert figures.cpu_seconds > 0
    shown = figures.json_object()
    assert (shown["database"], shown["queue"]) == (
        ("sqlite", "local") if backends == "embedded" else ("postgresql", "bullmq")
    )
    assert list(tmp_path.iterdir()) == []
    assert valkey.send_command("DBSIZE") == b":0"


async def test_bench_lanes_measures_urgent_latency_when_idle_and_under_a_broadcast(
    backends: str, tmp_path: Path
) -> None:
    figures = await lanes.run(broadcast=3000, urgent=5, per_second=20, workers=1, folder=tmp_path)
    assert figures.idle.sent == 5
    assert 1 <= figures.urgent.sent <= 5
    for timed in (figures.idle, figures.urgent):
        assert 0 < timed.accept_ms.p50 <= timed.accept_ms.max
        assert 0 < timed.receipt_ms.p50 <= timed.receipt_ms.p99 <= timed.receipt_ms.max
    assert figures.broadcast_per_second > 0
    assert set(figures.peak_memory_mb) == ({"serve"} if backends == "embedded" else {"api", "worker 1"})
    assert list(tmp_path.iterdir()) == []


async def test_bench_release_sends_all_that_quiet_hours_held_and_urgent_ones_meanwhile(
    backends: str, tmp_path: Path
) -> None:
    figures = await release.run(messages=1000, urgent=5, per_second=20, workers=1, folder=tmp_path)
    assert figures.messages == 1000
    assert 1 <= figures.urgent.sent <= 5
    assert figures.seconds > 0
    assert 0 < figures.urgent.receipt_ms.p50 <= figures.urgent.receipt_ms.p99
    assert set(figures.peak_memory_mb) == ({"serve"} if backends == "embedded" else {"api", "worker 1"})
    assert list(tmp_path.iterdir()) == []


async def test_bench_queue_moves_every_task_and_bundles_fan_out_tasks(
    backends: str, tmp_path: Path, valkey: ValkeyServer
) -> None:
    figures = await queue.run(tasks=300, singles=3, folder=tmp_path)
    assert (figures.batches.tasks, figures.plans.tasks) == (300, 300)
    assert figures.batches.jobs == 300
    # a BullMQ job carries up to fifty tasks; in-memory tasks are not bundled
    assert figures.plans.jobs == (300 if backends == "embedded" else 6)
    assert 0 < figures.latency_ms.p50 <= figures.latency_ms.max
    assert min(figures.batches.tasks_per_second, figures.plans.published_per_second) > 0
    assert valkey.send_command("DBSIZE") == b":0"


async def test_bench_email_sends_each_message_once_and_over_few_connections(backends: str, tmp_path: Path) -> None:
    figures = await email.run(recipients=60, connections=3, workers=1, singles=2, folder=tmp_path)
    for load in (figures.broadcast, figures.individual):
        assert (load.messages, load.duplicates) == (60, 0)
        assert load.messages_per_second > 0
        assert load.queries > 0
        assert load.cpu_seconds > 0
    assert 0 < figures.latency_ms.p50 <= figures.latency_ms.p99
    # each connection carries up to 100 of the 132 messages
    assert 2 <= figures.connections <= 6
    assert figures.database == ("sqlite" if backends == "embedded" else "postgresql")
    assert list(tmp_path.iterdir()) == []


async def test_bench_inapp_fills_feeds_and_reads_their_pages(backends: str, tmp_path: Path) -> None:
    figures = await inapp.run(recipients=30, items=900, pages=10, workers=1, folder=tmp_path)
    assert figures.stored_items == 900 + 2 * 30
    assert min(figures.items_per_second, figures.filled_per_second, figures.queries) > 0
    for page in (figures.first_page_ms, figures.deep_page_ms):
        assert 0 < page.p50 <= page.p99 <= page.max
    assert figures.database == ("sqlite" if backends == "embedded" else "postgresql")
    assert list(tmp_path.iterdir()) == []


async def test_the_smtp_sink_delays_each_reply() -> None:
    async with smtp_sink.spawn(reply_delay_ms=20) as sink:
        reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
        await reader.readline()
        loop = asyncio.get_running_loop()
        started = loop.time()
        writer.write(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        replies = [await reader.readline() for _ in range(3)]
        writer.write(b"Message-ID: <1@b.example>\r\n\r\n.. one dot\r\n.\r\n")
        replies.append(await reader.readline())
        assert [reply[:3] for reply in replies] == [b"250", b"250", b"354", b"250"]
        assert loop.time() - started >= 0.08
        assert (await sink.wait_for(1, seconds=5)).distinct == 1
        writer.close()


async def test_idle_processes_use_little_cpu(backends: str, tmp_path: Path) -> None:
    figures = await idle.run(seconds=1.0, settle=0.5, workers=1, folder=tmp_path)
    assert set(figures.processes) == ({"serve"} if backends == "embedded" else {"api", "worker 1"})
    for one in figures.processes.values():
        # well above the 1 % of a longer run on a quiet machine: test machines are shared, and this run is short
        assert 0 <= one.cpu_percent < 50
        assert 10 < one.memory_mb < 1000
    assert 0 < figures.queries_per_second < 200


@pytest.fixture
def default_sighup() -> Iterator[None]:
    """Let child processes receive SIGHUP although these tests run under `nohup`; handled signals are reset on exec."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("stop_signal", "ignored"),
    [
        (signal.SIGTERM, ""),
        *(
            pytest.param(*other, marks=pytest.mark.extended)
            for other in ((signal.SIGHUP, ""), (signal.SIGTERM, "INT"), (signal.SIGTERM, "HUP"))
        ),
    ],
    ids=["SIGTERM", "SIGHUP", "SIGTERM, in the background of a script", "SIGTERM, under nohup"],
)
@pytest.mark.usefixtures("default_sighup")
async def test_a_stopped_benchmark_ends_its_processes_and_deletes_its_data(
    tmp_path: Path, stop_signal: signal.Signals, ignored: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", f"trap '' {ignored}; exec \"$@\"" if ignored else 'exec "$@"', "sh"),
        *(sys.executable, "-m", "tidings.cli", "bench", "idle", "--seconds", "600"),
        env={**environment, "TMPDIR": str(tmp_path)},
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def started() -> bool:
        return any(tmp_path.glob("tidings-bench-*/tidings.db-wal")) and len(_children(process.pid)) == 1

    await eventually(started, within=60)
    [child] = _children(process.pid)
    assert (signal.SIGHUP in _ignored_signals(process.pid)) == (ignored == "HUP"), (
        "nohup must keep the benchmark running"
    )
    process.send_signal(stop_signal)
    # the shell and the kernel each send a signal
    process.send_signal(stop_signal)
    async with asyncio.timeout(30):
        assert await process.wait() == 130
    assert not Path(f"/proc/{child}").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [None, 200, 503], ids=["refused", "ready", "not yet ready"])
async def test_waiting_for_a_server_start_can_be_cancelled_at_any_moment(status: int | None, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, stdin=asyncio.subprocess.PIPE)
    starts = server_process._ServerProcess("nobody", process, tmp_path / "server.log")

    async def waits(client: Client, url: str) -> None:
        """Wait for the server, then wait for ever, as a benchmark continues once its server is up."""
        await server_process._wait_until_ready(client, url, starts)
        await asyncio.Event().wait()

    try:
        async with _serve_status(status) as url, ClientBuilder().build() as client:
            for number in range(600):
                waiting = asyncio.create_task(waits(client, url))
                for _ in range(number % 150):
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting], timeout=10)
                ended = waiting.cancelled()
                waiting.cancel()
                assert ended, f"the cancellation after {number % 150} passes of the event loop was swallowed"
    finally:
        process.kill()
        await process.wait()


class _FixedResponse(asyncio.Protocol):
    """Answers every request with one status."""

    def __init__(self, status: int, opened: list[asyncio.Transport]) -> None:
        self._answer = f"HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n".encode()
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._opened.append(self._transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)


@asynccontextmanager
async def _serve_status(status: int | None) -> AsyncIterator[str]:
    """Answer every request with a status (None = refuse every connection); yield the URL."""
    opened: list[asyncio.Transport] = []
    with socket.socket() as unused_socket:
        unused_socket.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused_socket.getsockname()[1]}"
        if status is None:
            yield url
            return
        async with await asyncio.get_running_loop().create_server(
            lambda: _FixedResponse(status, opened), sock=unused_socket
        ):
            try:
                yield url
            finally:
                for connection in opened:
                    connection.abort()


async def test_json_is_one_document_on_standard_output(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings.cli", "bench", "queue", "--tasks", "100", "--json"),
        env={name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    shown = msgspec.json.decode(output, type=dict[str, object])
    assert set(shown) == {"queue", "batches", "plans", "latencyMs", "cores"}


def _ignored_signals(pid: int) -> set[signal.Signals]:
    """Return the signals that a process ignores (`SigIgn` of proc_pid_status(5): the lowest bit is signal 1)."""
    [mask] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")]
    bits = int(mask.split()[1], 16)
    return {one for one in signal.Signals if bits >> (one - 1) & 1}


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


async def test_bench_rooms_measures_viewers_and_loses_none(backends: str, tmp_path: Path) -> None:
    figures = await rooms.run(connections=60, pairs=40, seconds=0.5, folder=tmp_path)
    assert (figures.connections, figures.false_ends) == (60, 0)
    assert figures.joins_and_leaves_per_second > 0
    assert 0 < figures.join_ms.p50 <= figures.join_ms.max
    assert figures.herd_seconds > 0
    assert figures.decisions_per_second > 0
