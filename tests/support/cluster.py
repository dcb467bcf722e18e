"""`tidings api` and `tidings worker` as real processes.

In a test: `async with ServerProcess("worker", tmp_path, settings={"TIDINGS_DATABASE": …}) as worker: …`. Processes
of one cluster share a data folder, and so their secrets and metrics. Each has its own log.
"""

import itertools
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tests.support.server import TidingsServer

from tidings.testing.ports import free_port

_log_numbers = itertools.count(1)


class ServerProcess(TidingsServer):
    """One process of a cluster. A worker serves health and metrics only."""

    def __init__(
        self,
        command: Literal["serve", "api", "worker"],
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        """Store how the process runs, as `TidingsServer` does. Starts nothing."""
        log = data_dir.with_name(f"{data_dir.name}-{command}-{next(_log_numbers)}.log")
        super().__init__(data_dir, settings=settings, options=options, log=log)
        self._command = command

    async def start(self) -> None:
        """Start and return once the process is ready. Raises BackendError with the end of the log if that fails."""
        # a worker listens only with --port
        port = free_port() if self._command == "worker" else 0
        await self._launch(self._command, *(() if "--port" in self._options else ("--port", str(port))))

    def request_stop(self) -> None:
        """Send SIGTERM without waiting for the end."""
        os.kill(self.pid, signal.SIGTERM)

    def pause(self) -> None:
        """Send SIGSTOP: the process hangs, and its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
