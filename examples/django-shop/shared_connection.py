"""Lends Django's database connection to SQLAlchemy, so that `notify_sync` writes in the transaction of Django."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection as django_connection
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool


class _LentConnection:
    """A DB-API connection whose transaction belongs to Django: SQLAlchemy can neither end nor close it."""

    def __init__(self, lent: Any) -> None:
        self._lent = lent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lent, name)

    def commit(self) -> None:
        """Do nothing: Django commits."""

    def rollback(self) -> None:
        """Do nothing: Django rolls back."""

    def close(self) -> None:
        """Do nothing: Django closes."""


def _lend() -> _LentConnection:
    django_connection.ensure_connection()
    return _LentConnection(django_connection.connection)


#: Django's SQLite connections; for PostgreSQL with psycopg: `postgresql+psycopg://`
_engine = create_engine("sqlite://", creator=_lend, poolclass=NullPool)


@contextmanager
def share_transaction() -> Iterator[Connection]:
    """Yield a SQLAlchemy connection for `conn=`. Raises RuntimeError outside `transaction.atomic`."""
    if not django_connection.in_atomic_block:
        raise RuntimeError("open the transaction first: with transaction.atomic(): …")
    with _engine.connect() as connection:
        yield connection
