"""INSERT … ON CONFLICT: both dialects say it in the same words, but SQLAlchemy has no common name for it."""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

from tidings.ports.store import Transaction
from tidings.stores.connection import of


def upsert(tx: Transaction, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT for the dialect of the transaction, ready for `on_conflict_do_nothing()` or `…_do_update()`."""
    return upsert_on(of(tx).dialect.name, table)


def upsert_on(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT for a dialect by its name: for statements that are put together once."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
