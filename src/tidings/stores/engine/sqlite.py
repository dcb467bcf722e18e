"""SQLite engines: one writer and several readers on one file in WAL mode with `synchronous=FULL`.

With `synchronous=NORMAL`, a power loss may roll back committed transactions (sqlite.org/wal.html). SQLite allows one
writer at a time. A pool of one writing connection queues the writers of the process in order, and `BEGIN IMMEDIATE`
takes the write lock first, so that no transaction fails half-way for the lack of it.
"""

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from tidings.stores.engine.error_mapping import redact_values

READER_POOL_SIZE = 4
#: milliseconds for which a connection waits for another process
BUSY_TIMEOUT_MS = 10_000

#: attempts to enable WAL while other processes open the same new file
_MAX_WAL_ATTEMPTS = 20

#: The write-ahead log is truncated to this size when it is reset, and by `truncate_log` when it is larger. A long read
#: lets it grow, and SQLite itself never shrinks it while the database is in use.
MAX_LOG_BYTES = 64 << 20
#: milliseconds for which `truncate_log` waits for readers; writers wait meanwhile
_TRUNCATE_TIMEOUT_MS = 500

_PRAGMAS = (
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-16000",
    f"PRAGMA journal_size_limit={MAX_LOG_BYTES}",
)


def create_engines(path: Path) -> tuple[AsyncEngine, AsyncEngine]:
    """Return (writer, reader) for a database file. A missing folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _build_engine(path, pool_size=1, begin="BEGIN IMMEDIATE"), _build_engine(
        path, pool_size=READER_POOL_SIZE, begin="BEGIN"
    )


def create_sync_engine(path: Path, *, is_writable: bool = True) -> Engine:
    """Return an engine for callers without an event loop. A missing folder is created.

    is_writable: each transaction takes the write lock when it begins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", **_engine_options(pool_size=1))
    begin = "BEGIN IMMEDIATE" if is_writable else "BEGIN"
    _configure_connections(engine, lambda connection: connection.exec_driver_sql(begin))
    return engine


async def truncate_log(writer: AsyncEngine, *, above: int = MAX_LOG_BYTES) -> bool:
    """Write the write-ahead log to the database and empty it, if it is larger than `above` bytes.

    writer: the writing engine of `create_engines`. Returns whether the log was emptied. False while somebody reads from
    it, such as a backup; call again later.
    """
    if _measure(Path(f"{writer.url.database}-wal")) <= above:
        return False
    async with writer.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        # outside of a transaction, which SQLAlchemy's own `execute` would begin
        await driver.execute(f"PRAGMA busy_timeout={_TRUNCATE_TIMEOUT_MS}")
        try:
            cursor = await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            is_busy, _, _ = await cursor.fetchone()
        finally:
            await driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        return not is_busy


def _measure(file: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    return file.stat().st_size if file.exists() else 0


def copy_database(path: Path, target: Path) -> None:
    """Copy a database in use to a new file, without pausing its writers. target: must not exist.

    VACUUM INTO reads one snapshot. The backup API of SQLite (`.backup`) starts again after each write of another
    process, and does not end under load. The copy gets its name once it is complete. Raises sqlite3.Error and OSError.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as source:
            source.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            source.execute("PRAGMA synchronous=FULL")
            source.execute("VACUUM INTO ?", (str(partial),))
        if target.exists():
            raise FileExistsError(errno.EEXIST, "the file exists", str(target))
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _build_engine(path: Path, *, pool_size: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", **_engine_options(pool_size))
    _configure_connections(engine.sync_engine, lambda connection: _begin_in_one_round_trip(connection, begin))
    return engine


def _engine_options(pool_size: int) -> dict[str, Any]:
    return {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": 30,
        # `open_transaction` ends each transaction; another rollback at return would cost a round trip to the thread
        "pool_reset_on_return": None,
        # the driver must not begin transactions implicitly: the `begin` listener does, with the kind it needs
        "connect_args": {"isolation_level": None},
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
        "hide_parameters": True,
    }


def _begin_in_one_round_trip(connection: Connection, begin: str) -> None:
    """Begin with one round trip to the connection's thread. SQLAlchemy's cursor would take three."""
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(lambda sqlite: sqlite.execute(begin))


def _configure_connections(engine: Engine, begin: Callable[[Connection], object]) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        _enable_wal(cursor)
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine, "begin", begin)
    redact_values(engine)


def _enable_wal(cursor: Any) -> None:
    """Put the file into WAL mode, even while other processes do the same or write to a new file.

    SQLite ignores `busy_timeout` here: of two connections that change the mode it rejects one at once, because each
    would wait for the other. An exclusive transaction does wait.
    """
    for attempts_left in reversed(range(_MAX_WAL_ATTEMPTS)):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not attempts_left or "locked" not in str(error):
                raise
            cursor.execute("BEGIN EXCLUSIVE")
            cursor.execute("ROLLBACK")
