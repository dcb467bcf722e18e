"""Transactions of the SQL store, with the SQLAlchemy connection inside. Adapters for callers' own connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, CursorResult, Dialect, Executable, ScalarResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from tidings.errors import ValidationFailed
from tidings.ports.store import Transaction

_T = TypeVar("_T")


class SqlConnection(Protocol):
    """The methods of a connection that the repositories use.

    `AsyncConnection` implements them; `SyncConnectionAdapter` provides them for a blocking connection.
    """

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
    """A connection with an open transaction. Opaque outside the stores."""

    __slots__ = ("commit_callbacks", "connection")

    def __init__(self, connection: SqlConnection) -> None:
        self.connection = connection
        self.commit_callbacks: list[Callable[[], Awaitable[None]]] = []

    def on_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Register a callback that the store awaits after it has committed this transaction."""
        self.commit_callbacks.append(callback)

    @property
    def is_closed(self) -> bool:
        return self.connection.closed or not self.connection.in_transaction()


class SyncConnectionAdapter:
    """A blocking connection with the interface of an asynchronous one. Its coroutines never suspend: see `run_sync`."""

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
        raise TypeError("savepoints are not supported on a blocking connection")


def run_sync(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that awaits only `SyncConnectionAdapter` methods, without an event loop.

    Raises RuntimeError if the coroutine suspends.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine suspended; only calls of a SyncConnectionAdapter can run without an event loop")


def connection_of(tx: Transaction) -> SqlConnection:
    """Return the connection of a transaction that this store opened or adopted. Raises TypeError for any other."""
    if not isinstance(tx, SqlTransaction):
        raise TypeError(f"not a transaction of this store: {type(tx).__name__}")
    return tx.connection


async def adopt(connection: object) -> SqlTransaction:
    """Wrap the caller's SQLAlchemy `AsyncConnection` or `AsyncSession`. The caller commits or rolls back.

    Raises ValidationFailed for any other object.
    """
    if isinstance(connection, AsyncSession):
        return SqlTransaction(await connection.connection())
    if isinstance(connection, AsyncConnection):
        return SqlTransaction(connection)
    raise ValidationFailed.for_field(
        "conn", f"must be a SQLAlchemy AsyncConnection or AsyncSession, not {type(connection).__name__}"
    )


def adopt_sync(connection: object) -> SqlTransaction:
    """Wrap the caller's blocking SQLAlchemy `Connection` or `Session`. Raises ValidationFailed for any other object."""
    if isinstance(connection, Session):
        return SqlTransaction(SyncConnectionAdapter(connection.connection()))
    if isinstance(connection, Connection):
        return SqlTransaction(SyncConnectionAdapter(connection))
    raise ValidationFailed.for_field(
        "conn", f"must be a SQLAlchemy Connection or Session, not {type(connection).__name__}"
    )
