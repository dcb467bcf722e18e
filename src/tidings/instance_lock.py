"""One server per SQLite database: a lock file that the kernel releases however the process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidings.errors import ConfigError


@contextmanager
def only_server(database: Path) -> Iterator[None]:
    """Hold the lock of a database file while the block runs.

    A second server would take the first one's sends for those of a dead process and repeat them. Raises ConfigError
    naming the process that holds the lock.
    """
    path = database.with_name(database.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened without truncating: the file names the holder, which is another process until we have the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(
            "TIDINGS_DATA_DIR", f"cannot write {path}: {error.strerror}; name a folder that this user may write"
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                "TIDINGS_DATA_DIR",
                f"another tidings serve (process {holder}) already works on {database}; "
                "stop it, or give this one another folder with --data-dir",
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
