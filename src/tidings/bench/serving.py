"""A `tidings serve` process of the benchmark's own, on a database of its own."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError

from tidings.errors import BackendError

API_KEY = "bench-key-for-a-server-on-loopback-only"
_START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    base_url: str
    pid: int
    client: Client

    async def request(self, method: str, path: str, body: object | None = None) -> Mapping[str, object]:
        """Send JSON, return JSON. Raises BackendError when the answer is not 2xx."""
        request = self.client.request(method, self.base_url + path).bearer_auth(API_KEY)
        if body is not None:
            request = request.body_json(body)
        response = await request.build().send()
        if response.status // 100 != 2:
            raise BackendError(f"{method} {path} answered {response.status}: {await response.text()}")
        answer: Mapping[str, object] = await response.json()
        return answer

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        response = await self.client.get(self.base_url + "/metrics").build().send()
        lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


@asynccontextmanager
async def serving(
    data_dir: Path, *, push_host: str = "", workers: int, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Served]:
    """Run a server for the length of the block; it logs to `server.log` in the data folder.

    push_host: the only one it may send to; workers: its sender processes; environment: more `TIDINGS_…` variables.
    """
    port = _free_port()
    variables = {
        **(environment or {}),
        "TIDINGS_DATA_DIR": str(data_dir),
        "TIDINGS_BOOTSTRAP_KEY": API_KEY,
        "TIDINGS_PUSH_EXTRA_HOSTS": push_host,
        "TIDINGS_LOG_LEVEL": "warning",
        "TIDINGS_LOG_FORMAT": "json",
    }
    with (data_dir / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings.cli", "serve", f"--port={port}", f"--workers={workers}"),
            env=variables,
            stdout=log,
            stderr=log,
        )
        try:
            async with ClientBuilder().timeout(timedelta(seconds=60)).build() as client:
                served = Served(f"http://127.0.0.1:{port}", process.pid, client)
                await _ready(served, process, data_dir)
                yield served
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _ready(served: Served, process: asyncio.subprocess.Process, data_dir: Path) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while process.returncode is None:
                try:
                    answer = await served.client.get(served.base_url + "/health/ready").build().send()
                    if answer.status == 200:
                        return
                except ConnectError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise BackendError(f"the server did not start:\n{(data_dir / 'server.log').read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
