"""`tidings bench`: small runs of each come to their end with sane figures, embedded and scaled, and leave nothing."""

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

from tidings.bench import idle, lanes, push, queue, serving
from tidings.bench.backends import Backends
from tidings.settings import Settings
from tidings.testing.postgres import PostgresServer
from tidings.testing.server import eventually
from tidings.testing.valkey import ValkeyServer


@pytest.fixture(params=["embedded", "scaled"])
def backends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer, valkey: ValkeyServer
) -> Iterator[str]:
    """Where the benchmark keeps its data: nothing is named, or an empty PostgreSQL and a Valkey are."""
    for name in ("TIDINGS_DATABASE", "TIDINGS_REDIS"):
        monkeypatch.delenv(name, raising=False)
    valkey.flush()
    if request.param == "embedded":
        yield request.param
        return
    url = postgres.fresh()
    monkeypatch.setenv("TIDINGS_DATABASE", url)
    monkeypatch.setenv("TIDINGS_REDIS", valkey.url)
    yield request.param
    postgres.drop(url)


async def test_push_tells_everybody_once_and_says_what_each_process_cost(
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
    assert valkey.command("DBSIZE") == b":0"


async def test_lanes_times_urgent_ones_on_an_idle_system_and_under_a_broadcast(backends: str, tmp_path: Path) -> None:
    figures = await lanes.run(broadcast=3000, urgent=5, per_second=20, workers=1, folder=tmp_path)
    assert figures.idle.sent == 5
    assert 1 <= figures.urgent.sent <= 5
    for timed in (figures.idle, figures.urgent):
        assert 0 < timed.accept_ms.p50 <= timed.accept_ms.max
        assert 0 < timed.receipt_ms.p50 <= timed.receipt_ms.p99 <= timed.receipt_ms.max
    assert figures.broadcast_per_second > 0
    assert set(figures.peak_memory_mb) == ({"serve"} if backends == "embedded" else {"api", "worker 1"})
    assert list(tmp_path.iterdir()) == []


async def test_queue_moves_every_task_and_carries_plans_together(
    backends: str, tmp_path: Path, valkey: ValkeyServer
) -> None:
    figures = await queue.run(tasks=300, singles=3, folder=tmp_path)
    assert (figures.batches.tasks, figures.plans.tasks) == (300, 300)
    assert figures.batches.jobs == 300
    # fifty at most travel in one job of the shared queue, and those in memory travel alone
    assert figures.plans.jobs == (300 if backends == "embedded" else 6)
    assert 0 < figures.latency_ms.p50 <= figures.latency_ms.max
    assert min(figures.batches.tasks_per_second, figures.plans.published_per_second) > 0
    assert valkey.command("DBSIZE") == b":0"


async def test_idle_processes_ask_little_of_the_machine(backends: str, tmp_path: Path) -> None:
    figures = await idle.run(seconds=1.0, settle=0.5, workers=1, folder=tmp_path)
    assert set(figures.processes) == ({"serve"} if backends == "embedded" else {"api", "worker 1"})
    for one in figures.processes.values():
        # far from the 1 % that a quiet machine shows over a longer time: this one is shared, and the time is short
        assert 0 <= one.cpu_percent < 50
        assert 10 < one.memory_mb < 1000
    assert 0 < figures.queries_per_second < 200


@pytest.fixture
def heard() -> Iterator[None]:
    """Have children hear SIGHUP although these tests run under `nohup`; what is handled here is at its default there"""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("told", "ignored"),
    [(signal.SIGTERM, ""), (signal.SIGHUP, ""), (signal.SIGTERM, "INT"), (signal.SIGTERM, "HUP")],
    ids=["SIGTERM", "SIGHUP", "SIGTERM, in the background of a script", "SIGTERM, under nohup"],
)
@pytest.mark.usefixtures("heard")
async def test_a_benchmark_that_is_stopped_ends_its_processes_and_erases_its_data(
    tmp_path: Path, told: signal.Signals, ignored: str
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
    assert (signal.SIGHUP in _ignored(process.pid)) == (ignored == "HUP"), "nohup is for going on"
    process.send_signal(told)
    # a shell and the kernel each send one
    process.send_signal(told)
    async with asyncio.timeout(30):
        assert await process.wait() == 130
    assert not Path(f"/proc/{child}").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [None, 200, 503], ids=["refused", "ready", "not yet ready"])
async def test_whoever_waits_for_a_start_ends_when_told_to_at_whatever_moment(
    status: int | None, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, stdin=asyncio.subprocess.PIPE)
    starts = serving._Started("nobody", process, Backends(tmp_path, {}, Settings(data_dir=tmp_path)))

    async def waits(client: Client, url: str) -> None:
        """Wait, and then for good, as a benchmark goes on once its server is there."""
        await serving._ready(client, url, starts)
        await asyncio.Event().wait()

    try:
        async with _door(status) as url, ClientBuilder().build() as client:
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


class _Answer(asyncio.Protocol):
    """Answers whatever comes with one status."""

    def __init__(self, status: int, opened: list[asyncio.Transport]) -> None:
        self._answer = f"HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n".encode()
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._opened.append(self._transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)


@asynccontextmanager
async def _door(status: int | None) -> AsyncIterator[str]:
    """Answer every request with a status, None = refuse every connection; yield the address."""
    opened: list[asyncio.Transport] = []
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        if status is None:
            yield url
            return
        async with await asyncio.get_running_loop().create_server(lambda: _Answer(status, opened), sock=nobody):
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


def _ignored(pid: int) -> set[signal.Signals]:
    """Return what a process ignores (`SigIgn` of proc_pid_status(5): the lowest bit is signal 1)."""
    [mask] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:")]
    bits = int(mask.split()[1], 16)
    return {one for one in signal.Signals if bits >> (one - 1) & 1}


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []
