"""Cancel-safe connections: each database call completes before a cancellation takes effect.

On SQLite a call runs in the connection's thread, which continues when the calling task is cancelled. An abandoned
`BEGIN` would leave the only writer inside a transaction and lock all others out. On PostgreSQL an interrupted call
costs its connection. If the server does not respond within `RESPONSE_TIMEOUT`, the connection is terminated. Errors are
mapped by `error_mapping`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Dialect, Executable, ScalarResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tidings.concurrency import discard_result
from tidings.errors import BackendError
from tidings.stores.engine.error_mapping import classify_error, map_errors

_T = TypeVar("_T")
#: engine option: seconds allowed for the response to a call; None = unlimited
RESPONSE_TIMEOUT_OPTION = "tidings_response_timeout"
#: engine option: True if transactions only read
READ_ONLY_OPTION = "postgresql_readonly"
#: seconds for which a cancelled task waits for a response before the connection is terminated. Applies only to calls
#: with a response timeout.
CANCEL_GRACE = 1.0


async def shield_until_done(
    call: Coroutine[Any, Any, _T], *, abort_after: float | None = None, abort: Callable[[], object] | None = None
) -> _T:
    """Return the call's result. A cancellation in the meantime is raised after the call has ended.

    abort_after: seconds after which `abort` is called; `abort` must make the call fail.
    """
    task = asyncio.ensure_future(call)
    timer = None if abort_after is None or abort is None else asyncio.get_running_loop().call_later(abort_after, abort)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # the result is not used
        task.add_done_callback(discard_result)
        await asyncio.wait({task}, timeout=None if timer is None else CANCEL_GRACE)
        if not task.done() and abort is not None:
            abort()
            await asyncio.wait({task})
        raise
    finally:
        if timer is not None:
            timer.cancel()


@asynccontextmanager
async def open_transaction(engine: AsyncEngine) -> AsyncIterator["CancelSafeConnection"]:
    """Run the block in a transaction: committed at its end, rolled back if it raises.

    Raises BackendError if the database does not answer, and ValidationFailed if it cannot store a value.
    """
    options = engine.sync_engine.get_execution_options()
    connection = CancelSafeConnection(
        await _connect(engine),
        response_timeout=options.get(RESPONSE_TIMEOUT_OPTION),
        is_writable=not options.get(READ_ONLY_OPTION),
    )
    try:
        await connection.begin()
        try:
            yield connection
        except BaseException:
            await connection.rollback()
            raise
        await connection.commit()
    finally:
        # also rolls back a transaction that a failed or cancelled begin left open
        await connection.close()


class CancelSafeConnection:
    """A connection in a transaction, with each call run by `shield_until_done`."""

    def __init__(self, connection: AsyncConnection, *, response_timeout: float | None, is_writable: bool) -> None:
        self._connection = connection
        self._response_timeout = response_timeout
        self._is_writable = is_writable
        # asyncpg connections can be terminated, and know whether they are closed
        sync_connection = connection.sync_connection
        self._driver: Any = None
        if sync_connection is not None and connection.dialect.name == "postgresql":
            self._driver = sync_connection.connection.driver_connection

    @property
    def closed(self) -> bool:
        return self._connection.closed

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    def in_transaction(self) -> bool:
        return self._connection.in_transaction()

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]:
        return await self._run(self._connection.execute(statement, parameters))

    async def scalar(self, statement: Executable) -> Any:
        return await self._run(self._connection.scalar(statement))

    async def scalars(self, statement: Executable) -> ScalarResult[Any]:
        return await self._run(self._connection.scalars(statement))

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        """Run the block in a savepoint."""
        savepoint = self._connection.begin_nested()
        await self._run(_start(savepoint))
        try:
            yield
        except BaseException:
            await self._run(savepoint.rollback())
            raise
        await self._run(savepoint.commit())

    async def begin(self) -> None:
        """Begin the transaction."""
        begun = _start(self._connection.begin())
        # asyncpg sends BEGIN with the first statement, so there is no response to wait for
        await (begun if self._driver is not None else self._run(begun))

    async def commit(self) -> None:
        """Commit the transaction."""
        await self._run_closing_call(self._connection.commit())

    async def rollback(self) -> None:
        """Roll the transaction back. The server has already done so for a closed connection."""
        if self._driver is None or not self._driver.is_closed():
            await self._run(self._connection.rollback())

    async def close(self) -> None:
        """Return the connection to the pool."""
        await self._run_closing_call(self._connection.close())

    async def _run_closing_call(self, call: Coroutine[Any, Any, None]) -> None:
        """Await a call that ends the transaction.

        Without an open transaction at the server the call sends nothing, and is not shielded: a shield costs a task
        and three passes of the event loop.
        """
        nothing_open = (
            self._driver is not None and not self._driver.is_closed() and not self._driver.is_in_transaction()
        )
        await (call if nothing_open else self._run(call))

    async def _run(self, call: Coroutine[Any, Any, _T]) -> _T:
        terminate = None if self._driver is None else self._driver.terminate
        try:
            return await shield_until_done(call, abort_after=self._response_timeout, abort=terminate)
        except Exception as error:
            mapped = classify_error(error, is_writable=self._is_writable)
            if mapped is None and self._driver is not None and self._driver.is_closed():
                mapped = BackendError(f"the connection to the database was lost: {error}", backend="database")
            if mapped is None:
                raise
            raise mapped from error


@asynccontextmanager
async def raw_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Provide a connection without a transaction, for migrations.

    Raises BackendError if the database does not answer.
    """
    connection = await _connect(engine)
    try:
        with map_errors():
            yield connection
    finally:
        await shield_until_done(connection.close())


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    try:
        return await engine.connect()
    except Exception as error:
        mapped = classify_error(error)
        if mapped is None:
            raise
        raise mapped from error


async def _start(transaction: Any) -> None:
    await transaction.start()
