"""`tidings doctor`: is this installation sound, and where does each setting come from?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING

from tidings.cli.finding import Finding
from tidings.cli.options import Options
from tidings.cli.output import print_json, print_table
from tidings.errors import ConfigError
from tidings.settings import FALLBACK_SUBJECT, MIN_PUBLIC_SECRET, Settings
from tidings.settings_sources import unknown_variables

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: HS256 wants keys as long as its hash (RFC 7518 §3.2)
_GOOD_SECRET = 32


def doctor(*, options: Options = Options()) -> int:
    """Check the installation and show every setting with its origin; exit code 1 if there is a problem."""
    settings = options.settings()
    findings = [*_settings(settings), *_folder(settings), *_database(settings), *_redis(settings)]
    if options.json:
        origins = [origin._asdict() for origin in settings.origins()]
        print_json(
            {
                "version": version("tidings"),
                "python": python_version(),
                "settings": origins,
                "checks": [asdict(finding) for finding in findings],
            }
        )
    else:
        print(f"Tidings {version('tidings')}, Python {python_version()}, {sys.platform}")
        print_table(("setting", "value", "from"), settings.origins(), empty="")
        print_table(("", "check", "result"), [(_MARKS[f.level], f.check, f.message) for f in findings], empty="")
    return 1 if any(finding.level == "problem" for finding in findings) else 0


_MARKS = {"ok": "✓", "warning": "!", "problem": "✗"}


def _settings(settings: Settings) -> Iterator[Finding]:
    for name in unknown_variables(type(settings), os.environ):
        yield Finding("warning", name, "is set, but no setting of this version has that name; is it misspelt?")
    for name in ("user_secret", "secret_key"):
        value = getattr(settings, name)
        if name == "secret_key" and 0 < len(value) < MIN_PUBLIC_SECRET:
            yield Finding("problem", "TIDINGS_SECRET_KEY", f"needs at least {MIN_PUBLIC_SECRET} characters")
        elif value and len(value) < _GOOD_SECRET:
            yield Finding("warning", f"TIDINGS_{name.upper()}", f"is shorter than {_GOOD_SECRET} characters")
    if settings.weak_bootstrap_key:
        shortest = f"is shorter than {MIN_PUBLIC_SECRET} characters and can be guessed"
        yield Finding("warning", "TIDINGS_BOOTSTRAP_KEY", shortest)
    if settings.vapid_subject == FALLBACK_SUBJECT:
        yield Finding("warning", "TIDINGS_VAPID_SUBJECT", "push services cannot reach you; set it to mailto:you@…")
    if settings.public and settings.frontend_url.startswith("http://"):
        yield Finding("warning", "TIDINGS_FRONTEND_URL", "browsers allow Web Push on https sites only")


def _folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Finding("problem", "data folder", f"{existing} cannot be written; choose another with TIDINGS_DATA_DIR")
    elif folder.is_dir():
        yield Finding("ok", "data folder", f"{folder.absolute()} can be written")
    else:
        yield Finding("ok", "data folder", f"{folder.absolute()} will be made at the first start")
    secrets = folder / "secrets"
    for file in sorted(secrets.iterdir()) if secrets.is_dir() else ():
        if file.stat().st_mode & 0o077:
            yield Finding("problem", "secrets", f"others may read {file}; run: chmod 600 {file}")


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis is not None:
        from tidings.cli import backends

        yield from backends.redis(settings)


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database.startswith("sqlite:"):
        yield from _sqlite(settings)
        return
    from tidings.cli import backends

    yield from backends.postgresql(settings)


def _sqlite(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy.exc import DatabaseError

    from tidings.cli.db import connected
    from tidings.stores import schema_version

    path = settings.sqlite_path
    if path is None or not path.exists() or not path.stat().st_size:
        yield Finding("ok", "database", "will be made at the first start")
        return
    try:
        with connected(path) as connection:
            found = schema_version.status(connection)
            # quick_check reads every page but verifies no index: seconds where integrity_check takes minutes
            verdict = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
            sealing = _sealing(connection, settings.secret_key) if found.current and verdict == "ok" else None
    except DatabaseError as error:
        yield Finding("problem", "database", f"{path}: {error.orig}; restore a backup")
        return
    if verdict != "ok":
        yield Finding("problem", "database", f"{path} is damaged: {verdict}; restore a backup")
    elif found.up_to_date:
        yield Finding("ok", "database", f"{path} is sound and up to date (schema {found.current})")
    else:
        yield Finding("warning", "database", f"{path} has schema {found.current}, the server upgrades it at its start")
    if path.stat().st_mode & 0o077:
        yield Finding("warning", "database", f"others may read {path}; run: chmod 600 {path}")
    if sealing is not None:
        yield sealing


def _sealing(connection: Connection, secret: str) -> Finding | None:
    """Try the secret on the keys that are sealed with it, as the server does at its start; None = there are none."""
    from sqlalchemy import select

    from tidings.stores.schema import vapid_keys
    from tidings.stores.sealing import Sealer

    sealed = list(connection.execute(select(vapid_keys.c.sealed_private, vapid_keys.c.id)))
    if not sealed:
        return None
    if not secret:
        return Finding("problem", "TIDINGS_SECRET_KEY", "is lost: the database was sealed with it; restore it")
    try:
        sealer = Sealer(secret)
        for private, key_id in sealed:
            sealer.unseal(private, key_id)
    except ConfigError as error:
        return Finding("problem", error.setting, error.message.removeprefix(f"{error.setting}: "))
    return Finding("ok", "TIDINGS_SECRET_KEY", "opens what the database keeps sealed")
