"""`tidings db`: the database's schema."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cyclopts import App
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from tidings.cli.options import Options
from tidings.cli.output import print_json
from tidings.errors import ConfigError, Invalid, NotFound
from tidings.secret_files import private_file
from tidings.settings import Settings
from tidings.stores import postgres, schema_version, sqlite, steady
from tidings.stores.prepare import prepare

app = App(name="db", help="Create, upgrade and look at the database.")

_T = TypeVar("_T")


@app.command
def upgrade(*, options: Options = Options()) -> None:
    """Create the database or bring it up to date; the server does the same at its start."""
    settings = options.settings()
    if (path := settings.sqlite_path) is not None:
        private_file(path)
    before, after = _run(settings, lambda connection: _moved(connection, prepare), writing=True)
    name = _name(settings)
    if options.json:
        print_json({"database": name, "from": before.current, "to": after.current})
    elif before.up_to_date:
        print(f"{name} is up to date (schema {after.current})")
    else:
        print(f"{name}: schema {before.current or 'none'} → {after.current}")


@app.command
def status(*, options: Options = Options()) -> int:
    """Show which schema the database has; exit code 1 if it needs an upgrade."""
    settings = options.settings()
    path, name = settings.sqlite_path, _name(settings)
    if path is None or path.exists():
        found = _run(settings, schema_version.status, writing=False)
        current, up_to_date = found.current, found.up_to_date
    else:
        current, up_to_date = None, False
    if options.json:
        print_json({"database": name, "current": current, "upToDate": up_to_date})
    elif up_to_date:
        print(f"{name} is up to date (schema {current})")
    else:
        print(f"{name} has {f'schema {current}' if current else 'no schema yet'}; run tidings db upgrade")
    return 0 if up_to_date else 1


@app.command
def downgrade(to: str, *, yes: bool = False, options: Options = Options()) -> None:
    """Take the schema back to an older one, for an older program; what only the newer one keeps is deleted.

    Parameters
    ----------
    to
        The schema to go back to, as `tidings db status` shows it; `base` deletes everything.
    yes
        Do it; stop every server first.
    """
    from tidings.stores import migrate

    settings = options.settings()
    name = _name(settings)
    if (path := settings.sqlite_path) is not None and not path.exists():
        raise NotFound(f"there is no database at {path}; see --data-dir")
    if not yes:
        raise Invalid(f"this deletes from {name} what schema {to} does not know; stop every server and add --yes")
    before, after = _run(
        settings, lambda connection: _moved(connection, lambda at: migrate.downgrade(at, to)), writing=True
    )
    if options.json:
        print_json({"database": name, "from": before.current, "to": after.current})
    else:
        print(f"{name}: schema {before.current or 'none'} → {after.current or 'none'}")


def _moved(
    connection: Connection, move: Callable[[Connection], None]
) -> tuple[schema_version.Status, schema_version.Status]:
    before = schema_version.status(connection)
    connection.rollback()
    move(connection)
    return before, schema_version.status(connection)


def _run(settings: Settings, work: Callable[[Connection], _T], *, writing: bool) -> _T:
    """Do something with a connection to the database, whichever it is. Raises BackendError when it does not answer."""
    path = settings.sqlite_path
    if path is None:
        if settings.database.startswith("sqlite:"):
            raise ConfigError("TIDINGS_DATABASE", "names no file; write sqlite:///path/to/tidings.db")
        return asyncio.run(_on_postgresql(settings.database, work))
    if not writing:
        with connected(path) as connection:
            return work(connection)
    with _closing(sqlite.blocking_engine(path)) as connection:
        return work(connection)


async def _on_postgresql(url: str, work: Callable[[Connection], _T]) -> _T:
    writer, _ = postgres.engines(url, pool_size=1)
    try:
        async with steady.plain(writer) as connection:
            return await connection.run_sync(work)
    finally:
        await writer.dispose()


@contextmanager
def connected(path: Path) -> Iterator[Connection]:
    """Open a SQLite file for the length of the block, to look at it."""
    with _closing(create_engine(f"sqlite:///{path}", poolclass=NullPool)) as connection:
        yield connection


@contextmanager
def _closing(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _name(settings: Settings) -> str:
    """Return what to call the database: its file, or its address without user, password and options."""
    if settings.sqlite_path is not None:
        return str(settings.sqlite_path)
    parts = urlsplit(settings.database)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
