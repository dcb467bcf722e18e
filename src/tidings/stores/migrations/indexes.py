"""Creates an index on a table in use without blocking writers (PostgreSQL: CREATE INDEX CONCURRENTLY)."""

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tidings.stores.engine.schema_lock import is_lock_timeout

#: attempts to take a short lock, one second each; writers continue between them
MAX_LOCK_ATTEMPTS = 60


def create_index(name: str, table: str, *columns: str, where: str | None = None) -> None:
    """Create an index within a migration, on SQLite in its transaction.

    On PostgreSQL this commits the previous statements and may be interrupted at any point: a repeated migration
    continues there. So a migration must call it first, before any statement that cannot be repeated. On a partitioned
    table the index is created per partition (PostgreSQL manual, CREATE INDEX and ALTER INDEX … ATTACH PARTITION).
    """
    if op.get_context().dialect.name != "postgresql":
        op.create_index(name, table, list(columns), sqlite_where=None if where is None else text(where))
        return
    definition = f"({', '.join(columns)})" + (f" WHERE {where}" if where else "")
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        partitioned = connection.scalar(
            text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(:name)"), {"name": table}
        )
        if partitioned:
            _create_on_partitions(connection, name, table, definition)
        else:
            _create_concurrently(connection, name, table, definition)


def _create_on_partitions(connection: Connection, name: str, table: str, definition: str) -> None:
    # new partitions get the index at creation; it is valid once all partitions have it
    _run_with_short_locks(connection, f"CREATE INDEX IF NOT EXISTS {name} ON ONLY {table} {definition}")
    missing = connection.scalars(
        text(
            """SELECT part.inhrelid::regclass::text FROM pg_inherits AS part
            WHERE part.inhparent = to_regclass(:table) AND NOT EXISTS (
                SELECT FROM pg_index JOIN pg_inherits AS child ON child.inhrelid = pg_index.indexrelid
                WHERE pg_index.indrelid = part.inhrelid AND child.inhparent = to_regclass(:name))
            ORDER BY 1"""
        ),
        {"table": table, "name": name},
    ).all()
    for partition in missing:
        partition_index = f"{partition}_{name.removeprefix(f'ix_{table}_')}"
        _create_concurrently(connection, partition_index, partition, definition)
        _run_with_short_locks(connection, f"ALTER INDEX {name} ATTACH PARTITION {partition_index}")


def _create_concurrently(connection: Connection, name: str, table: str, definition: str) -> None:
    # it waits for all transactions that use the table, and blocks none of them
    connection.execute(text("SET lock_timeout = 0"))
    is_invalid = text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
    if connection.scalar(is_invalid, {"name": name}):
        # left by an interrupted attempt: never read, but maintained by every writer
        connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
    connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} {definition}"))
    connection.execute(text("RESET lock_timeout"))


def _run_with_short_locks(connection: Connection, statement: str) -> None:
    """Run a statement that needs a lock for a moment. Each wait is short, because writers queue behind a waiting lock.

    Raises the database's error if the lock is not granted within `MAX_LOCK_ATTEMPTS` seconds.
    """
    connection.execute(text("SET lock_timeout = '1s'"))
    try:
        for attempt in range(MAX_LOCK_ATTEMPTS):
            try:
                connection.execute(text(statement))
                return
            except DBAPIError as error:
                if not is_lock_timeout(error) or attempt == MAX_LOCK_ATTEMPTS - 1:
                    raise
    finally:
        connection.execute(text("RESET lock_timeout"))
