"""An index on a table that is in use, made without stopping the writers (PostgreSQL: CREATE INDEX CONCURRENTLY)."""

from alembic import op
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tidings.stores.locks import is_locked

#: how often a short lock is asked for, one second each time: writers go on in between
PATIENCE = 60


def create_index(name: str, table: str, *columns: str, where: str | None = None) -> None:
    """Make an index inside a migration, on SQLite in its transaction.

    On PostgreSQL it commits what came before it and can be cut off at any point: the migration, run again, goes on
    from there. So a migration calls it first, before anything that cannot be repeated. A partitioned table gets it a
    partition at a time (PostgreSQL manual, CREATE INDEX and ALTER INDEX … ATTACH PARTITION).
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
            _on_partitions(connection, name, table, definition)
        else:
            _concurrently(connection, name, table, definition)


def _on_partitions(connection: Connection, name: str, table: str, definition: str) -> None:
    # partitions made from now on have it from the start; it is used once every partition has it
    _patiently(connection, f"CREATE INDEX IF NOT EXISTS {name} ON ONLY {table} {definition}")
    lacking = connection.scalars(
        text(
            """SELECT part.inhrelid::regclass::text FROM pg_inherits AS part
            WHERE part.inhparent = to_regclass(:table) AND NOT EXISTS (
                SELECT FROM pg_index JOIN pg_inherits AS child ON child.inhrelid = pg_index.indexrelid
                WHERE pg_index.indrelid = part.inhrelid AND child.inhparent = to_regclass(:name))
            ORDER BY 1"""
        ),
        {"table": table, "name": name},
    ).all()
    for partition in lacking:
        part = f"{partition}_{name.removeprefix(f'ix_{table}_')}"
        _concurrently(connection, part, partition, definition)
        _patiently(connection, f"ALTER INDEX {name} ATTACH PARTITION {part}")


def _concurrently(connection: Connection, name: str, table: str, definition: str) -> None:
    # it waits for everybody who uses the table, and nobody waits for it
    connection.execute(text("SET lock_timeout = 0"))
    half_made = text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
    if connection.scalar(half_made, {"name": name}):
        # left over from one that was cut off: nobody reads it and every writer keeps it up
        connection.execute(text(f"DROP INDEX CONCURRENTLY {name}"))
    connection.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} {definition}"))
    connection.execute(text("RESET lock_timeout"))


def _patiently(connection: Connection, statement: str) -> None:
    """Run what needs a lock for a moment; writers queue behind whoever waits for one, so it is never waited for long.

    Raises the database's error when it was never free in a minute.
    """
    connection.execute(text("SET lock_timeout = '1s'"))
    try:
        for turn in range(PATIENCE):
            try:
                connection.execute(text(statement))
                return
            except DBAPIError as error:
                if not is_locked(error) or turn == PATIENCE - 1:
                    raise
    finally:
        connection.execute(text("RESET lock_timeout"))
