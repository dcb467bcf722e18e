"""Files with owner-only access: the data folder, the database, and one file per generated secret."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from tidings.errors import ConfigError

_SECRETS_FOLDER = "secrets"


def create_private_folder(path: Path) -> None:
    """Create a folder with mode 0700. An existing folder keeps its mode."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise


def create_private_file(path: Path) -> None:
    """Create an empty file with mode 0600, unless it exists. SQLite gives its -wal and -shm files the same mode.

    Raises ConfigError if the folder is not writable.
    """
    try:
        create_private_folder(path.parent)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        if not path.is_file():
            raise _unusable_path(path, error) from error


def secret_path(data_dir: Path, name: str) -> Path:
    """Return the path of the generated secret `name`."""
    return data_dir / _SECRETS_FOLDER / name


def read_secret(data_dir: Path, name: str) -> str:
    """Return the generated secret, or an empty string if it does not exist. Raises ConfigError."""
    try:
        return secret_path(data_dir, name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unusable_path(secret_path(data_dir, name), error) from error


def _random_secret() -> str:
    return secrets.token_urlsafe(32)


def ensure_secret(data_dir: Path, name: str, generate: Callable[[], str] = _random_secret) -> str:
    """Return the generated secret. Create it if it does not exist (32 random bytes by default, file mode 0600).

    Processes that start at the same time get the same secret, because the complete file is linked to its name once.
    Raises ConfigError if the folder is not writable.
    """
    if secret := read_secret(data_dir, name):
        return secret
    path = secret_path(data_dir, name)
    draft = path.with_name(f".{name}.{os.getpid()}")
    try:
        create_private_folder(data_dir)
        create_private_folder(path.parent)
        # with the mode in open(2), because a later chmod would leave the file readable for a moment
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(generate() + "\n")
            file.flush()
            os.fsync(file.fileno())
        _publish(draft, path)
    except OSError as error:
        raise _unusable_path(path, error) from error
    return read_secret(data_dir, name)


def _publish(draft: Path, path: Path) -> None:
    """Link the complete file to its name, unless another process was faster."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _unusable_path(path: Path, error: OSError) -> ConfigError:
    reason = error.strerror or type(error).__name__
    return ConfigError("TIDINGS_DATA_DIR", f"cannot use {path}: {reason}; choose a folder that this user can write")
