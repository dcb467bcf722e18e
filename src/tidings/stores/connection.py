"""The transaction as the SQL adapters see it: a SQLAlchemy connection inside."""

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tidings.errors import Invalid
from tidings.ports.store import Transaction


class SqlTransaction:
    """A connection with an open transaction. Opaque to everybody but the stores."""

    __slots__ = ("connection",)

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    @property
    def closed(self) -> bool:
        return self.connection.closed or not self.connection.in_transaction()


def of(tx: Transaction) -> AsyncConnection:
    """Return the connection inside a transaction that this store opened or joined."""
    if not isinstance(tx, SqlTransaction):
        raise TypeError(f"not a transaction of this store: {type(tx).__name__}")
    return tx.connection


async def borrowed(connection: object) -> SqlTransaction:
    """Wrap the caller's own SQLAlchemy `AsyncConnection` or `AsyncSession`; the caller commits or rolls back.

    Raises Invalid for anything else.
    """
    if isinstance(connection, AsyncSession):
        return SqlTransaction(await connection.connection())
    if isinstance(connection, AsyncConnection):
        return SqlTransaction(connection)
    raise Invalid.field(
        "conn", f"must be a SQLAlchemy AsyncConnection or AsyncSession, not {type(connection).__name__}"
    )
