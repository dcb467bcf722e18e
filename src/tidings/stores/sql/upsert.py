"""INSERT … ON CONFLICT for both dialects: the SQL is the same, but SQLAlchemy has one class per dialect."""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of


def upsert(tx: Transaction, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT for the transaction's dialect, with `on_conflict_do_nothing()` and `on_conflict_do_update()`."""
    return upsert_for_dialect(connection_of(tx).dialect.name, table)


def upsert_for_dialect(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT for a dialect by name, for statements that are built once."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
