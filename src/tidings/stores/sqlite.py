"""SQLite engines: one writer, several readers, on one file in WAL mode with `synchronous=FULL`.

WAL with `synchronous=NORMAL` may roll back confirmed commits on power loss, so FULL it is (facts: reliability).
SQLite allows one writer at a time; a pool of exactly one writing connection makes writers queue in order inside the
process instead of colliding, and `BEGIN IMMEDIATE` takes the lock up front so that nothing fails half-way.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

READERS = 4
BUSY_TIMEOUT_MS = 10_000

#: how often a connection asks for WAL while others make the same new file
_WAL_TRIES = 20

_PRAGMAS = (
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-16000",
)


def engines(path: Path) -> tuple[AsyncEngine, AsyncEngine]:
    """Return (writer, reader) for a database file; the folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _engine(path, pool_size=1, begin="BEGIN IMMEDIATE"), _engine(path, pool_size=READERS, begin="BEGIN")


def blocking_engine(path: Path) -> Engine:
    """Return a writer for callers without an event loop."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", **_options(pool_size=1))
    _configure(engine, lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _engine(path: Path, *, pool_size: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", **_options(pool_size))
    _configure(engine.sync_engine, lambda connection: _begin_at_once(connection, begin))
    return engine


def _options(pool_size: int) -> dict[str, Any]:
    return {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": 30,
        # `steady.transaction` ends what it began; another rollback at each return would only cost a trip to the thread
        "pool_reset_on_return": None,
        # the driver must not open transactions behind our back: we say when, and which kind
        "connect_args": {"isolation_level": None},
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
    }


def _begin_at_once(connection: Connection, begin: str) -> None:
    """Begin with one trip to the connection's thread; a cursor of its own would take three."""
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(lambda sqlite: sqlite.execute(begin))


def _configure(engine: Engine, begin: Callable[[Connection], object]) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        _to_wal(cursor)
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine, "begin", begin)


def _to_wal(cursor: Any) -> None:
    """Put the file into WAL mode, also while other processes do so or write to a new file.

    SQLite does not wait there, whatever `busy_timeout` says: of two connections that want to change the mode it
    refuses one at once, because each would wait for the other. To take the whole file for a moment does wait.
    """
    for left in reversed(range(_WAL_TRIES)):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not left or "locked" not in str(error):
                raise
            cursor.execute("BEGIN EXCLUSIVE")
            cursor.execute("ROLLBACK")
