"""Server processes of a benchmark: `tidings serve`, or on PostgreSQL `tidings api` and `tidings worker` processes."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError
from pyreqwest.request import ConsumedRequest
from pyreqwest.response import Response

from tidings.bench.backends import Backends
from tidings.bench.process_stats import ProcessUsage, measure_tree_usage
from tidings.errors import TidingsError

API_KEY = "bench-key-for-a-server-on-loopback-only"
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The running processes and a client for their HTTP API."""

    #: of the API
    base_url: str
    #: name → process id: `serve`, or `api`, `worker 1`, `worker 2` …
    pids: Mapping[str, int]
    #: of the health servers of the worker processes
    worker_urls: Sequence[str]
    client: Client

    async def request(self, method: str, path: str, body: object | None = None) -> Mapping[str, object]:
        """Send a JSON request and return the JSON response. Raises TidingsError when the status is not 2xx."""
        request = self.client.request(method, self.base_url + path).bearer_auth(API_KEY)
        if body is not None:
            request = request.body_json(body)
        response = await send(request.build())
        if response.status // 100 != 2:
            raise TidingsError(f"{method} {path} responded with {response.status}: {await response.text()}")
        response_body: Mapping[str, object] = await response.json()
        return response_body

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels and all processes."""
        text = ""
        # A process refreshes some values only when it is scraped itself. The API is read last; it returns the sums.
        for url in (*self.worker_urls, self.base_url):
            response = await send(self.client.get(url + "/metrics").build())
            text = await response.text()
        lines = text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def measure_usage(self) -> Mapping[str, ProcessUsage]:
        """Return the usage of each process so far, including its child processes."""
        return {name: measure_tree_usage(pid) for name, pid in self.pids.items()}

    def measure_memory(self) -> Mapping[str, float]:
        """Return the peak resident memory of each process so far, in MiB."""
        return {name: round(usage.peak_memory_mb, 1) for name, usage in self.measure_usage().items()}

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes so far."""
        return sum(usage.cpu_seconds for usage in self.measure_usage().values())


async def send(request: ConsumedRequest) -> Response:
    """Send a request and return the response with its body read.

    pyreqwest swallows a cancellation that arrives together with the response, so the cancellation is raised again here.
    """
    try:
        return await request.send()
    finally:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError


@asynccontextmanager
async def run_server(backends: Backends, *, workers: int) -> AsyncIterator[RunningServer]:
    """Run the processes for the length of the block. Each logs to a file in the data folder.

    Arguments: workers — `tidings worker` processes on PostgreSQL, sender processes of the server on SQLite.
    Raises TidingsError when a process does not start.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ClientBuilder().timeout(timedelta(seconds=60)).build())
        port = _free_port()
        base_url = f"http://127.0.0.1:{port}"
        pids: dict[str, int] = {}
        worker_urls: list[str] = []
        started: list[_ServerProcess] = []

        async def start(name: str, command: str, *options: str) -> None:
            started.append(await stack.enter_async_context(_start_process(backends, name, command, *options)))

        if backends.is_scaled:
            await start("api", "api", f"--port={port}")
            for number in range(1, workers + 1):
                worker_port = _free_port()
                worker_urls.append(f"http://127.0.0.1:{worker_port}")
                await start(f"worker {number}", "worker", f"--port={worker_port}")
        else:
            await start("serve", "serve", f"--port={port}", f"--workers={workers}")
        for server_process, url in zip(started, (base_url, *worker_urls), strict=True):
            await _wait_until_ready(client, url, server_process)
            pids[server_process.name] = server_process.process.pid
        yield RunningServer(base_url, pids, worker_urls, client)


@dataclass(frozen=True, slots=True)
class _ServerProcess:
    name: str
    process: asyncio.subprocess.Process
    log_file: Path

    @property
    def log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:]


@asynccontextmanager
async def _start_process(backends: Backends, name: str, command: str, *options: str) -> AsyncIterator[_ServerProcess]:
    environment = {
        **backends.environment,
        "TIDINGS_BOOTSTRAP_KEY": API_KEY,
        "TIDINGS_LOG_LEVEL": "warning",
        "TIDINGS_LOG_FORMAT": "json",
    }
    log_file = backends.data_dir / f"{name}.log"
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", command, *options),
            env=environment,
            # a `.env` or `tidings.toml` in the caller's working directory must not apply
            cwd=backends.data_dir,
            # One session per process, as under systemd: with `sched_autogroup` Linux divides CPU time among sessions,
            # and within one session the API would compete with the workers that send the broadcast.
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield _ServerProcess(name, process, log_file)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _wait_until_ready(client: Client, url: str, started: _ServerProcess) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while started.process.returncode is None:
                try:
                    response = await send(client.get(url + "/health/ready").build())
                    if response.status == 200:
                        return
                except ConnectError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise TidingsError(f"{started.name} did not start:\n{started.log_tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
