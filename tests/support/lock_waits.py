"""Waits until a transaction of a test is blocked by another one."""

import asyncio

from sqlalchemy import text

from tidings.stores.engine.transaction import connection_of
from tidings.stores.store import SqlStore

_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def wait_until_blocked(store: SqlStore, task: "asyncio.Task[object]", *, within: float = 10) -> None:
    """Return once a task waits for a lock of the database, or has ended. On SQLite, tasks wait before they begin."""
    async with asyncio.timeout(within):
        while not task.done():
            async with store.read_once() as tx:
                if connection_of(tx).dialect.name == "sqlite" or await connection_of(tx).scalar(_WAITING):
                    return
