"""What only its owner may read: the data folder, the database, and secrets, one file each in `data_dir/secrets`."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from tidings.errors import ConfigError

_FOLDER = "secrets"


def private_folder(path: Path) -> None:
    """Make a folder for its owner only (mode 0700) unless it exists; one that exists keeps its mode."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise


def private_file(path: Path) -> None:
    """Make an empty file for its owner only (mode 0600) unless it exists; SQLite's -wal and -shm take its mode over.

    Raises ConfigError when the folder cannot be written.
    """
    try:
        private_folder(path.parent)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        if not path.is_file():
            raise _unusable(path, error) from error


def secret_path(data_dir: Path, name: str) -> Path:
    """Return where the generated secret `name` lives."""
    return data_dir / _FOLDER / name


def existing_secret(data_dir: Path, name: str) -> str:
    """Return the generated secret, or an empty string if there is none yet."""
    try:
        return secret_path(data_dir, name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unusable(secret_path(data_dir, name), error) from error


def _random() -> str:
    return secrets.token_urlsafe(32)


def secret_from_file(data_dir: Path, name: str, make: Callable[[], str] = _random) -> str:
    """Return the generated secret, making it first if there is none (32 random bytes by default, file mode 0600).

    Two processes that start together get the same one: the file appears complete, under its name, at most once.
    Raises ConfigError when the folder cannot be written.
    """
    if found := existing_secret(data_dir, name):
        return found
    path = secret_path(data_dir, name)
    draft = path.with_name(f".{name}.{os.getpid()}")
    try:
        private_folder(data_dir)
        private_folder(path.parent)
        # The mode is given to open(2): a chmod afterwards would leave a moment in which others can read it.
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(make() + "\n")
            file.flush()
            os.fsync(file.fileno())
        _publish(draft, path)
    except OSError as error:
        raise _unusable(path, error) from error
    return existing_secret(data_dir, name)


def _publish(draft: Path, path: Path) -> None:
    """Give the finished file its name unless another process was first."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _unusable(path: Path, error: OSError) -> ConfigError:
    reason = error.strerror or type(error).__name__
    return ConfigError("TIDINGS_DATA_DIR", f"cannot use {path}: {reason}; name a folder that this user may write")
