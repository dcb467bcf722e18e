"""Database calls that a cancellation cannot cut in two, and whose errors mean something.

On SQLite a call runs in the connection's own thread. If whoever waits for it is cancelled, the thread goes on: a
`BEGIN` that nobody waits for any more leaves the only writer inside a transaction, and everybody else locked out. On
PostgreSQL a call cut in two costs its connection. So each call is waited for to its end, and the cancellation goes on
after it. A server that does not even say that it gave up is not waited for: the connection to it is cut.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Dialect, Executable, ScalarResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tidings.ending import seen
from tidings.errors import BackendError
from tidings.stores.faults import meaning, translated

_T = TypeVar("_T")
#: engine option: seconds that an answer may take; without it as long as it takes
ANSWER_WITHIN = "tidings_answer_within"
#: engine option: True where transactions only read
READING = "postgresql_readonly"
#: seconds that somebody who was cancelled waits for the answer at most, where answers are limited at all
PATIENCE = 1.0


async def finished(
    call: Coroutine[Any, Any, _T], *, within: float | None = None, cut: Callable[[], object] | None = None
) -> _T:
    """Return what the call returns; a cancellation meanwhile is raised when the call has ended.

    within: seconds after which `cut` is called, which must make the call fail.
    """
    task = asyncio.ensure_future(call)
    limit = None if within is None or cut is None else asyncio.get_running_loop().call_later(within, cut)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # whatever comes of it now, nobody asks
        task.add_done_callback(seen)
        await asyncio.wait({task}, timeout=None if limit is None else PATIENCE)
        if not task.done() and cut is not None:
            cut()
            await asyncio.wait({task})
        raise
    finally:
        if limit is not None:
            limit.cancel()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator["Steady"]:
    """Open a transaction for the time of the block: committed at its end, rolled back when it raises.

    Raises BackendError when the database does not answer, and Invalid when it cannot keep a value.
    """
    options = engine.sync_engine.get_execution_options()
    steady = Steady(await _connected(engine), within=options.get(ANSWER_WITHIN), writing=not options.get(READING))
    try:
        await steady.begin()
        try:
            yield steady
        except BaseException:
            await steady.rollback()
            raise
        await steady.commit()
    finally:
        # rolls back first if a begin that failed, or was cancelled, left something open
        await steady.close()


class Steady:
    """A connection inside a transaction, each call of which is `finished`."""

    def __init__(self, connection: AsyncConnection, *, within: float | None, writing: bool) -> None:
        self._connection = connection
        self._within = within
        self._writing = writing
        # asyncpg's connections can be cut, and say by themselves when they have ended
        plain = connection.sync_connection
        native = plain is not None and connection.dialect.name == "postgresql"
        self._driver: Any = plain.connection.driver_connection if plain is not None and native else None

    @property
    def closed(self) -> bool:
        return self._connection.closed

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    def in_transaction(self) -> bool:
        return self._connection.in_transaction()

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]:
        return await self._call(self._connection.execute(statement, parameters))

    async def scalar(self, statement: Executable) -> Any:
        return await self._call(self._connection.scalar(statement))

    async def scalars(self, statement: Executable) -> ScalarResult[Any]:
        return await self._call(self._connection.scalars(statement))

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        """Open a savepoint for the time of the block."""
        savepoint = self._connection.begin_nested()
        await self._call(_start(savepoint))
        try:
            yield
        except BaseException:
            await self._call(savepoint.rollback())
            raise
        await self._call(savepoint.commit())

    async def begin(self) -> None:
        """Begin the transaction."""
        begun = _start(self._connection.begin())
        # PostgreSQL is told with the first statement: nothing is waited for here
        await (begun if self._driver is not None else self._call(begun))

    async def commit(self) -> None:
        """End it; what was written holds."""
        await self._ended(self._connection.commit())

    async def rollback(self) -> None:
        """End it as if nothing had been written. Of a connection that is gone, the server has done it already."""
        if self._driver is None or not self._driver.is_closed():
            await self._call(self._connection.rollback())

    async def close(self) -> None:
        """Give the connection back."""
        await self._ended(self._connection.close())

    async def _ended(self, call: Coroutine[Any, Any, None]) -> None:
        """Await a call that ends what is open at the server: where nothing is, it asks and waits for nothing.

        Each call that is `finished` costs a task, and three passes of the event loop.
        """
        nothing_open = (
            self._driver is not None and not self._driver.is_closed() and not self._driver.is_in_transaction()
        )
        await (call if nothing_open else self._call(call))

    async def _call(self, call: Coroutine[Any, Any, _T]) -> _T:
        cut = None if self._driver is None else self._driver.terminate
        try:
            return await finished(call, within=self._within, cut=cut)
        except Exception as error:
            told = meaning(error, writing=self._writing)
            if told is None and self._driver is not None and self._driver.is_closed():
                told = BackendError(f"the connection to the database was lost: {error}")
            if told is None:
                raise
            raise told from error


@asynccontextmanager
async def plain(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection without a transaction, for migrations. Raises BackendError when there is none to be had."""
    connection = await _connected(engine)
    try:
        with translated():
            yield connection
    finally:
        await finished(connection.close())


async def _connected(engine: AsyncEngine) -> AsyncConnection:
    try:
        return await engine.connect()
    except Exception as error:
        told = meaning(error)
        if told is None:
            raise
        raise told from error


async def _start(transaction: Any) -> None:
    await transaction.start()
