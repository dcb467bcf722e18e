"""Runs migrations with Alembic on a given connection, without an Alembic configuration.

Any number of processes may start at once on an empty database: one changes the schema, the others wait. On PostgreSQL
each migration is one transaction, because an index on a table in use is created outside of a transaction
(`migrations/indexes.py`). On SQLite all migrations of a series are one transaction.
"""

import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
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

from tidings.errors import BackendError, ConfigError, TidingsError, ValidationFailed
from tidings.stores.engine.error_mapping import classify_error
from tidings.stores.engine.schema_lock import is_lock_timeout, schema_lock
from tidings.stores.engine.transaction import SyncConnectionAdapter, run_sync
from tidings.stores.schema import partitions
from tidings.stores.schema.version import ENGINE_MIGRATIONS, MigrationSet, read_status

log = structlog.get_logger(__name__)

#: seconds for which a process waits for another one that changes the schema
SCHEMA_LOCK_TIMEOUT = 120.0
#: these return and do nothing on a server without the setting
_GET_TRANSACTION_TIMEOUT = text("SELECT setting FROM pg_settings WHERE name = 'transaction_timeout'")
_SET_TRANSACTION_TIMEOUT = text(
    "SELECT set_config(name, :value, false) FROM pg_settings WHERE name = 'transaction_timeout'"
)


def upgrade(
    connection: Connection,
    now: datetime | None = None,
    *,
    packs: Sequence[MigrationSet] = (),
    lock_timeout: float = SCHEMA_LOCK_TIMEOUT,
) -> None:
    """Run every missing migration and create the partitions of the coming weeks.

    now: None = the system clock. packs: migrations of packs, run after those of the engine. lock_timeout: seconds to
    wait for another process that changes the schema. Raises BackendError if that process needs longer, or if the
    database is newer than this program or a pack; ConfigError if a migration of a pack fails.
    """
    _upgrade(connection, ENGINE_MIGRATIONS, lock_timeout)
    if connection.dialect.name == "postgresql":
        _create_weekly_partitions(connection, now or datetime.now(UTC))
    for migrations in packs:
        try:
            _upgrade(connection, migrations, lock_timeout)
        except Exception as error:
            connection.rollback()
            # an outage of the database is not a fault of the pack
            if isinstance(error, TidingsError) or classify_error(error) is not None:
                raise
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise ConfigError(f"{migrations.kind}s", f"a migration of {migrations.owner} failed: {reason}") from error


def downgrade(
    connection: Connection,
    to: str,
    *,
    migrations: MigrationSet = ENGINE_MIGRATIONS,
    lock_timeout: float = SCHEMA_LOCK_TIMEOUT,
) -> None:
    """Undo migrations down to a revision (`base` = all). The data of their tables and columns is deleted.

    Raises ValidationFailed for a revision that does not exist, BackendError as `upgrade` does.
    """
    scripts = _load_scripts(migrations)
    connection.rollback()

    def plan(revision: Any) -> list[RevisionStep]:
        return scripts._downgrade_revs(to, revision)

    try:
        _run_migrations(connection, migrations, scripts, plan, lock_timeout)
    except (CommandError, ResolutionError) as error:
        known = ", ".join(sorted(script.revision for script in scripts.walk_revisions()))
        raise ValidationFailed.for_field(
            "to", f"{to!r} is not an earlier revision; must be one of base, {known}"
        ) from error


def _upgrade(connection: Connection, migrations: MigrationSet, lock_timeout: float) -> None:
    status = read_status(connection, migrations)
    connection.rollback()
    if status.is_current:
        return
    scripts = _load_scripts(migrations)
    known = {script.revision for script in scripts.walk_revisions()}
    if status.current_revision is not None and status.current_revision not in known:
        raise BackendError(f"the database has schema {status.current_revision}{_describe_newer(migrations)}")

    def plan(revision: Any) -> list[RevisionStep]:
        return scripts._upgrade_revs("head", revision)

    _run_migrations(connection, migrations, scripts, plan, lock_timeout)


def _describe_newer(migrations: MigrationSet) -> str:
    if migrations.pack is None:
        return ", which is newer than this program; upgrade Tidings"
    return f" of {migrations.owner}, which is newer than the installed {migrations.kind}; upgrade the {migrations.kind}"


def _run_migrations(
    connection: Connection,
    migrations: MigrationSet,
    scripts: ScriptDirectory,
    steps: Callable[[Any], list[RevisionStep]],
    lock_timeout: float,
) -> None:
    def plan(revision: Any, _context: MigrationContext) -> list[RevisionStep]:
        return steps(revision)

    postgresql = connection.dialect.name == "postgresql"
    exclusive = _exclusive_on_postgresql(connection, lock_timeout) if postgresql else _exclusive_on_sqlite(connection)
    # run_migrations determines the missing migrations, so it runs inside the lock
    with EnvironmentContext(Config(), scripts, fn=plan) as environment, exclusive:
        environment.configure(
            connection=connection,
            transactional_ddl=True,
            transaction_per_migration=postgresql,
            version_table=migrations.version_table,
        )
        environment.run_migrations()


@contextmanager
def _exclusive_on_postgresql(connection: Connection, lock_timeout: float) -> Iterator[None]:
    with schema_lock(connection, timeout=lock_timeout):
        with connection.begin():
            # creating an index on a large table may take longer than the defaults
            connection.execute(text("SET statement_timeout = 0"))
            transaction_timeout = connection.scalar(_GET_TRANSACTION_TIMEOUT)
            connection.execute(_SET_TRANSACTION_TIMEOUT, {"value": "0"})
        try:
            yield
        finally:
            connection.rollback()
            with connection.begin():
                connection.execute(text("RESET statement_timeout"))
                connection.execute(_SET_TRANSACTION_TIMEOUT, {"value": transaction_timeout})


@contextmanager
def _exclusive_on_sqlite(connection: Connection) -> Iterator[None]:
    """Hold the write lock: the engine begins with BEGIN IMMEDIATE, which waits `BUSY_TIMEOUT_MS` for another writer."""
    try:
        with connection.begin():
            yield
    except (OperationalError, sqlite3.OperationalError) as error:
        # BEGIN does not pass through SQLAlchemy and raises the driver's own error
        if "database is locked" not in str(error):
            raise
        raise BackendError("another process is writing to the database; stop it, then retry") from error


def _create_weekly_partitions(connection: Connection, now: datetime) -> None:
    adapter = SyncConnectionAdapter(connection)
    with connection.begin():
        missing = run_sync(partitions.list_missing(adapter, now))
    for table, week in missing:
        # if postponed, its rows go to the default partition until the next hourly maintenance, which is only slower
        _run_unless_locked(connection, partitions.create(adapter, table, week), week.partition_name(table))
    with connection.begin():
        unset = run_sync(partitions.list_without_ndistinct(adapter))
    for name in unset:
        _run_unless_locked(connection, partitions.set_ndistinct(adapter, name), name)


def _run_unless_locked(connection: Connection, coroutine: Coroutine[Any, Any, None], partition: str) -> None:
    """Change a partition now, or leave it to the next hourly maintenance if its table is in use."""
    try:
        with connection.begin():
            run_sync(coroutine)
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        log.warning("partition_postponed", partition=partition)


def _load_scripts(migrations: MigrationSet = ENGINE_MIGRATIONS) -> ScriptDirectory:
    scripts = ScriptDirectory(str(migrations.path), version_locations=[str(migrations.path)])
    if migrations.pack is not None and (head := _find_head(scripts, migrations)) != migrations.head_revision:
        raise ConfigError(
            f"{migrations.kind}s",
            f"the newest migration of {migrations.owner} has the revision {head!r}; it must be "
            f"{migrations.head_revision!r}, as in the name of its file",
        )
    return scripts


def _find_head(scripts: ScriptDirectory, migrations: MigrationSet) -> str | None:
    try:
        return scripts.get_current_head()
    except (CommandError, ResolutionError) as error:
        message = f"the migrations of {migrations.owner} are not one series: {error}"
        raise ConfigError(f"{migrations.kind}s", message) from error
