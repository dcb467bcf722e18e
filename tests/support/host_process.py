"""A host product as a process of its own, on the database of a server of Tidings: the examples, run by uvicorn."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyreqwest.client import Client, ClientBuilder
from tests.support.server import HttpResponse, TidingsServer

_TIMEOUT = timedelta(seconds=60)


@dataclass
class HostProcess:
    """Serves an ASGI application. It outlives kills: `start` runs it again on the same data."""

    server: TidingsServer
    #: `module:attribute`
    app: str
    #: the folder of the module
    folder: Path
    #: variables beside the server's own
    settings: Mapping[str, str] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None
    _client: Client | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def database(self) -> Path:
        """The SQLite file that the host shares with the server."""
        return self.server.data_dir / "tidings.db"

    async def start(self) -> None:
        """Start the host and wait until it answers. Raises AssertionError with its log if it does not."""
        reader, writer = os.pipe()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", self.app, "--app-dir", str(self.folder), "--port", "0"),
            env={**self.server.environment, **self.settings},
            cwd=self.server.data_dir,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=writer,
        )
        os.close(writer)
        port = await asyncio.to_thread(_read_port, reader)
        self._client = ClientBuilder().base_url(f"http://127.0.0.1:{port}/").no_proxy().timeout(_TIMEOUT).build()

    async def kill(self) -> None:
        """End the host with SIGKILL."""
        assert self._process is not None, "the host has not been started"
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def post(self, path: str, body: dict[str, Any]) -> HttpResponse:
        """Return the response to a call. Raises PyreqwestError if the host is killed meanwhile."""
        assert self._client is not None, "the host has not been started"
        response = await self._client.post(path).body_json(body).build().send()
        return HttpResponse(response.status, {}, bytes(await response.bytes()))


def _read_port(descriptor: int) -> int:
    log = []
    with os.fdopen(descriptor) as lines:
        for line in lines:
            log.append(line)
            if "running on" in line:
                return int(line.split("http://127.0.0.1:")[1].split()[0])
    raise AssertionError("the host did not start:\n" + "".join(log))
