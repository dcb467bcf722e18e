"""Errors that mean an unavailable database become BackendError. Other errors stay as they are."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from tidings.errors import BackendError
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.store import SqlStore

SEALER = FieldCipher("a secret for the tests")


async def test_a_pool_without_a_free_connection(tmp_path: Path) -> None:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'one.db'}", pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    store = SqlStore(engine, engine, SEALER, {})
    async with store.transaction():
        with pytest.raises(BackendError, match="no database connection"):
            await store.ping()
    await store.close()


async def test_a_timeout_of_the_caller_is_not_mapped(store: SqlStore) -> None:
    with pytest.raises(TimeoutError, match="mine"):
        async with store.transaction():
            raise TimeoutError("mine")


async def test_a_database_that_another_connection_keeps_locked(store: SqlStore, tmp_path: Path) -> None:
    async with store.transaction() as tx:
        await connection_of(tx).execute(text("PRAGMA busy_timeout=10"))
    with closing(sqlite3.connect(tmp_path / "tidings.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendError, match="locked"):
            async with store.transaction():
                pass
        other.execute("ROLLBACK")
    async with store.transaction() as tx:
        assert await connection_of(tx).scalar(text("SELECT 1")) == 1


async def test_a_folder_that_cannot_hold_a_database(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'taken'}")
    store = SqlStore(engine, engine, SEALER, {})
    with pytest.raises(BackendError, match="unable to open"):
        await store.ping()
    await store.close()
    # the driver's thread reports its end to this loop, so the loop must run until then
    for thread in threading.enumerate():
        if "_connection_worker" in thread.name:
            await asyncio.to_thread(thread.join, 10)


async def test_a_constraint_violation_is_not_mapped(store: SqlStore) -> None:
    with pytest.raises(IntegrityError):
        async with store.transaction() as tx:
            await connection_of(tx).execute(text("INSERT INTO facts VALUES ('name', NULL)"))
