"""The transaction as the SQL adapters see it: a SQLAlchemy connection inside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, CursorResult, Dialect, Executable, ScalarResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from tidings.errors import Invalid
from tidings.ports.store import Transaction

_T = TypeVar("_T")


class SqlConnection(Protocol):
    """What the stores use of a connection; `AsyncConnection` has it, and `Blocking` lends it to a plain one."""

    @property
    def closed(self) -> bool: ...
    @property
    def dialect(self) -> Dialect: ...
    def in_transaction(self) -> bool: ...
    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]: ...
    async def scalar(self, statement: Executable) -> Any: ...
    async def scalars(self, statement: Executable) -> ScalarResult[Any]: ...
    def begin_nested(self) -> AbstractAsyncContextManager[object]: ...


class SqlTransaction:
    """A connection with an open transaction. Opaque to everybody but the stores."""

    __slots__ = ("after_commit", "connection")

    def __init__(self, connection: SqlConnection) -> None:
        self.connection = connection
        self.after_commit: list[Callable[[], Awaitable[None]]] = []

    def on_commit(self, call: Callable[[], Awaitable[None]]) -> None:
        """Call something once the store that opened the transaction has committed it."""
        self.after_commit.append(call)

    @property
    def closed(self) -> bool:
        return self.connection.closed or not self.connection.in_transaction()


class Blocking:
    """A plain connection in the shape of an asynchronous one. Nothing in it ever waits: see `at_once`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def closed(self) -> bool:
        return self._connection.closed

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    def in_transaction(self) -> bool:
        return self._connection.in_transaction()

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]:
        return self._connection.execute(statement, parameters)

    async def scalar(self, statement: Executable) -> Any:
        return self._connection.scalar(statement)

    async def scalars(self, statement: Executable) -> ScalarResult[Any]:
        return self._connection.scalars(statement)

    def begin_nested(self) -> AbstractAsyncContextManager[object]:
        raise TypeError("savepoints are not lent to blocking callers")


def at_once(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that only touches `Blocking` connections to its end, without an event loop."""
    try:
        work.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    work.close()
    raise RuntimeError("a blocking call tried to wait")


def of(tx: Transaction) -> SqlConnection:
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


def borrowed_blocking(connection: object) -> SqlTransaction:
    """Wrap the caller's own blocking SQLAlchemy `Connection` or `Session`. Raises Invalid for anything else."""
    if isinstance(connection, Session):
        return SqlTransaction(Blocking(connection.connection()))
    if isinstance(connection, Connection):
        return SqlTransaction(Blocking(connection))
    raise Invalid.field("conn", f"must be a SQLAlchemy Connection or Session, not {type(connection).__name__}")
