"""The instance lock: one server per SQLite database. The kernel releases it when the process ends, even by a crash."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidings.errors import ConfigError


@contextmanager
def hold_instance_lock(database: Path) -> Iterator[None]:
    """Hold the lock file of a SQLite database inside the block.

    Without it, a second server would treat the first one's sends as those of a crashed process and repeat them. Raises
    ConfigError naming the process that holds the lock.
    """
    path = database.with_name(database.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not truncated before it is locked: the file contains the process id of the holder
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(
            "TIDINGS_DATA_DIR", f"cannot write {path}: {error.strerror}; choose a folder that this user can write"
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                "TIDINGS_DATA_DIR",
                f"another tidings serve (process {holder}) already uses {database}; "
                "stop it, or choose another folder with --data-dir",
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
