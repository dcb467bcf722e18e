"""Database calls that a cancellation cannot cut in two.

A call runs in the connection's own thread. If whoever waits for it is cancelled, the thread goes on: a `BEGIN` that
nobody waits for any more leaves the only writer inside a transaction, and everybody else locked out. So each call is
waited for to its end, and the cancellation goes on after it.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Dialect, Executable, ScalarResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_T = TypeVar("_T")


async def finished(call: Coroutine[Any, Any, _T]) -> _T:
    """Return what the call returns; a cancellation meanwhile is raised when the call has ended."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator["Steady"]:
    """Open a transaction for the time of the block: committed at its end, rolled back when it raises."""
    connection = await engine.connect()
    try:
        await finished(_begin(connection))
        try:
            yield Steady(connection)
        except BaseException:
            await finished(connection.rollback())
            raise
        await finished(connection.commit())
    finally:
        # rolls back first if a begin that failed, or was cancelled, left something open
        await finished(connection.close())


async def _begin(connection: AsyncConnection) -> None:
    await connection.begin()


class Steady:
    """A connection inside a transaction, each call of which is `finished`."""

    def __init__(self, connection: AsyncConnection) -> None:
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
        return await finished(self._connection.execute(statement, parameters))

    async def scalar(self, statement: Executable) -> Any:
        return await finished(self._connection.scalar(statement))

    async def scalars(self, statement: Executable) -> ScalarResult[Any]:
        return await finished(self._connection.scalars(statement))

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        """Open a savepoint for the time of the block."""
        savepoint = self._connection.begin_nested()
        await finished(_start(savepoint))
        try:
            yield
        except BaseException:
            await finished(savepoint.rollback())
            raise
        await finished(savepoint.commit())


async def _start(savepoint: Any) -> None:
    await savepoint.start()
