"""`tidings api` and `tidings worker` as real processes: `TidingsServer` for one of several.

In a test: `async with Member("worker", tmp_path, settings={"TIDINGS_DATABASE": …}) as worker: …`. Members of one fleet
share a data folder, so that they share secrets and metrics; each has a log of its own.
"""

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pyreqwest.client import ClientBuilder

from tidings.testing.server import TidingsServer

#: for one call
_CALL_TIMEOUT = timedelta(seconds=60)
_numbers = itertools.count(1)


class Member(TidingsServer):
    """One process of a fleet. A worker answers about its health and nothing else."""

    def __init__(
        self,
        command: Literal["serve", "api", "worker"],
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        """Take how it runs, as `TidingsServer`; nothing starts yet."""
        log = data_dir.with_name(f"{data_dir.name}-{command}-{next(_numbers)}.log")
        super().__init__(data_dir, settings=settings, options=options, log=log)
        self._command = command

    async def start(self) -> None:
        """Start and return once it does what it is for. Raises BackendError, quoting the log, if that fails."""
        assert not self.running, "it is running already"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        # a worker has no port unless it is given one
        port = free_port() if self._command == "worker" else 0
        port_option = () if "--port" in self._options else ("--port", str(port))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tidings.cli", self._command, "--json", *port_option, *self._options),
                env=self.environment,
                cwd=self.data_dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.url = await self._announced(self._process)
        self._client = (
            ClientBuilder().base_url(f"{self.url}/").no_proxy().follow_redirects(False).timeout(_CALL_TIMEOUT).build()
        )

    def signal(self) -> None:
        """Ask it to stop (SIGTERM) without waiting for the end."""
        os.kill(self.pid, signal.SIGTERM)

    def pause(self) -> None:
        """Let it hang (SIGSTOP): its connections stay open and it does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
