"""The benchmark's own processes: one `tidings serve`, or on PostgreSQL one `tidings api` and some `tidings worker`."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError

from tidings.bench.backends import Backends
from tidings.bench.processes import Cost, cost_of
from tidings.errors import TidingsError
from tidings.testing.sent import sent

API_KEY = "bench-key-for-a-server-on-loopback-only"
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Served:
    """The running processes."""

    #: of the one that accepts
    base_url: str
    #: name → process id: `serve`, or `api`, `worker 1`, `worker 2` …
    pids: Mapping[str, int]
    #: of those that send apart from it
    worker_urls: Sequence[str]
    client: Client

    async def request(self, method: str, path: str, body: object | None = None) -> Mapping[str, object]:
        """Send JSON, return JSON. Raises TidingsError when the answer is not 2xx."""
        request = self.client.request(method, self.base_url + path).bearer_auth(API_KEY)
        if body is not None:
            request = request.body_json(body)
        response = await sent(request.build())
        if response.status // 100 != 2:
            raise TidingsError(f"{method} {path} answered {response.status}: {await response.text()}")
        answer: Mapping[str, object] = await response.json()
        return answer

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels and all processes."""
        text = ""
        # what a process counts elsewhere it brings up to date when it is asked itself
        for url in (*self.worker_urls, self.base_url):
            response = await sent(self.client.get(url + "/metrics").build())
            text = await response.text()
        lines = text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def costs(self) -> Mapping[str, Cost]:
        """Return what each process has cost so far, with those that it started."""
        return {name: cost_of(pid) for name, pid in self.pids.items()}

    def cpu_seconds(self) -> float:
        """Return the CPU time of all together so far."""
        return sum(cost.cpu_seconds for cost in self.costs().values())


@asynccontextmanager
async def serving(chosen: Backends, *, workers: int) -> AsyncIterator[Served]:
    """Run the processes for the length of the block; each logs to a file in the data folder.

    workers: `tidings worker` processes on PostgreSQL, sender processes of the server on SQLite.
    Raises TidingsError when one does not start.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ClientBuilder().timeout(timedelta(seconds=60)).build())
        port = _free_port()
        base_url = f"http://127.0.0.1:{port}"
        pids: dict[str, int] = {}
        worker_urls: list[str] = []
        started: list[_Started] = []
        if chosen.scaled:
            started.append(await stack.enter_async_context(_process(chosen, "api", "api", f"--port={port}")))
            for number in range(workers):
                own = _free_port()
                worker_urls.append(f"http://127.0.0.1:{own}")
                name = f"worker {number + 1}"
                started.append(await stack.enter_async_context(_process(chosen, name, "worker", f"--port={own}")))
        else:
            options = (f"--port={port}", f"--workers={workers}")
            started.append(await stack.enter_async_context(_process(chosen, "serve", "serve", *options)))
        for one, url in zip(started, (base_url, *worker_urls), strict=True):
            await _ready(client, url, one)
            pids[one.name] = one.process.pid
        yield Served(base_url, pids, worker_urls, client)


@dataclass(frozen=True, slots=True)
class _Started:
    name: str
    process: asyncio.subprocess.Process
    chosen: Backends

    @property
    def log_end(self) -> str:
        return (self.chosen.data_dir / f"{self.name}.log").read_text(errors="replace")[-2000:]


@asynccontextmanager
async def _process(chosen: Backends, name: str, command: str, *options: str) -> AsyncIterator[_Started]:
    variables = {
        **chosen.environment,
        "TIDINGS_BOOTSTRAP_KEY": API_KEY,
        "TIDINGS_LOG_LEVEL": "warning",
        "TIDINGS_LOG_FORMAT": "json",
    }
    with (chosen.data_dir / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", command, *options),
            env=variables,
            # a `.env` or `tidings.toml` of whoever runs the benchmark must not reach it
            cwd=chosen.data_dir,
            # as a service manager starts it: where nothing else groups processes, Linux shares processors among
            # sessions first, and in one of them a request would wait behind the broadcast that the workers send
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield _Started(name, process, chosen)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _ready(client: Client, url: str, started: _Started) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while started.process.returncode is None:
                try:
                    answer = await sent(client.get(url + "/health/ready").build())
                    if answer.status == 200:
                        return
                except ConnectError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise TidingsError(f"{started.name} did not start:\n{started.log_end}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
