"""Migrations: Alembic over the connection it is given, so that there is nothing to configure.

Any number of processes may start at once on an empty database: one changes the schema, the others wait for it. On
PostgreSQL each migration is a transaction, because an index on a table in use is made outside of one
(`migrations/indexes.py`); on SQLite all of them are one.
"""

import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from tidings.errors import BackendError, Invalid
from tidings.stores import partitions
from tidings.stores.connection import Blocking, at_once
from tidings.stores.locks import is_locked, schema_lock
from tidings.stores.schema_version import status

log = structlog.get_logger(__name__)

_SCRIPTS = Path(__file__).parent / "migrations"
#: how long a process waits for another one that changes the schema, in seconds
PATIENCE = 120.0


def upgrade(connection: Connection, now: datetime | None = None, *, patience: float = PATIENCE) -> None:
    """Run every migration that is missing, and make the partitions of the weeks that come.

    now: which week it is, None = by this machine's clock; patience: seconds to wait for another process that changes
    the schema. Raises BackendError when that is too short, or when the database is newer than this program.
    """
    scripts = _scripts()
    found = status(connection)
    connection.rollback()
    if not found.up_to_date:
        if found.current is not None and found.current not in {one.revision for one in scripts.walk_revisions()}:
            raise BackendError(
                f"the database has schema {found.current}, which is newer than this program; upgrade Tidings"
            )
        _run(connection, scripts, lambda revision: scripts._upgrade_revs("head", revision), patience)
    if connection.dialect.name == "postgresql":
        _make_weeks(connection, now or datetime.now(UTC))


def downgrade(connection: Connection, to: str, *, patience: float = PATIENCE) -> None:
    """Undo migrations down to a revision (`base` = all), and with them what only they know to keep.

    Raises Invalid for a revision that does not exist, BackendError as `upgrade`.
    """
    scripts = _scripts()
    connection.rollback()
    try:
        _run(connection, scripts, lambda revision: scripts._downgrade_revs(to, revision), patience)
    except (CommandError, ResolutionError) as error:
        known = ", ".join(sorted(one.revision for one in scripts.walk_revisions()))
        raise Invalid.field("to", f"{to!r} is no schema below this database's; there are base, {known}") from error


def _run(
    connection: Connection, scripts: ScriptDirectory, steps: Callable[[Any], list[RevisionStep]], patience: float
) -> None:
    def plan(revision: Any, _context: MigrationContext) -> list[RevisionStep]:
        return steps(revision)

    postgresql = connection.dialect.name == "postgresql"
    exclusive = _alone_on_postgresql(connection, patience) if postgresql else _alone_on_sqlite(connection)
    # which migrations are missing is looked up by run_migrations, inside the lock
    with EnvironmentContext(Config(), scripts, fn=plan) as environment, exclusive:
        environment.configure(connection=connection, transactional_ddl=True, transaction_per_migration=postgresql)
        environment.run_migrations()


@contextmanager
def _alone_on_postgresql(connection: Connection, patience: float) -> Iterator[None]:
    with schema_lock(connection, patience=patience):
        with connection.begin():
            # an index on a large table takes its time
            connection.execute(text("SET statement_timeout = 0"))
        try:
            yield
        finally:
            connection.rollback()
            with connection.begin():
                connection.execute(text("RESET statement_timeout"))


@contextmanager
def _alone_on_sqlite(connection: Connection) -> Iterator[None]:
    """Hold the only write lock: the engine begins with BEGIN IMMEDIATE, which waits ten seconds for another writer."""
    try:
        with connection.begin():
            yield
    except (OperationalError, sqlite3.OperationalError) as error:
        # the driver's own error comes from BEGIN, where that does not pass through SQLAlchemy
        if "database is locked" not in str(error):
            raise
        raise BackendError("another process is writing to the database; end it, and try again") from error


def _make_weeks(connection: Connection, now: datetime) -> None:
    at = Blocking(connection)
    with connection.begin():
        missing = at_once(partitions.missing(at, now))
    for table, week in missing:
        # until the next hourly round its rows would go to the default partition, which is as good, only slower
        _unless_locked(connection, partitions.make(at, table, week), week.of_table(table))
    with connection.begin():
        untold = at_once(partitions.untold(at))
    for name in untold:
        _unless_locked(connection, partitions.tell(at, name), name)


def _unless_locked(connection: Connection, work: Coroutine[Any, Any, None], partition: str) -> None:
    """Do something about a partition now, or leave it to the next hourly round."""
    try:
        with connection.begin():
            at_once(work)
    except DBAPIError as error:
        if not is_locked(error):
            raise
        log.warning("partition_postponed", partition=partition)


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_SCRIPTS))
