"""Migrations lead from nothing to the schema that the code declares, and back."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.errors import BackendError
from tidings.packs.events import tables
from tidings.stores import migrate
from tidings.stores.schema import metadata
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    writer, reader = engines(tmp_path / "tidings.db")
    yield writer
    await reader.dispose()
    await writer.dispose()


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def _differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))


async def test_up_down_and_up_again(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        assert (await connection.run_sync(migrate.status)).current is None
        await connection.rollback()
        for _ in range(2):
            await connection.run_sync(migrate.upgrade)
            assert (await connection.run_sync(migrate.status)).up_to_date
            assert await connection.run_sync(_tables) == set(metadata.tables)
            await connection.rollback()
            await connection.run_sync(migrate.downgrade, "base")
            assert await connection.run_sync(_tables) == set()
            await connection.rollback()


async def test_the_migrated_schema_is_the_declared_one(writer: AsyncEngine) -> None:
    assert tables.events.metadata is metadata
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        assert await connection.run_sync(_differences) == []


async def test_sqlite_makes_the_very_same_tables_and_indexes(writer: AsyncEngine, tmp_path: Path) -> None:
    """Conditions of partial indexes and clustered tables, which a comparison of names and columns does not see."""
    declared, _ = engines(tmp_path / "declared.db")
    async with declared.begin() as connection:
        await connection.run_sync(metadata.create_all)
        expected = await connection.run_sync(_shape)
    await declared.dispose()
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        assert await connection.run_sync(_shape) == expected


def _shape(connection: Connection) -> dict[str, str]:
    rows = connection.execute(text("SELECT name, type, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%'"))
    # the order of constraints in a table may differ, and so does nothing else that matters
    return {
        row.name: " ".join(row.sql.split()) if row.type == "index" else str("WITHOUT ROWID" in row.sql)
        for row in rows
        if row.sql
    }


async def test_a_newer_database_is_told_as_such_and_left_alone(writer: AsyncEngine, tmp_path: Path) -> None:
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.commit()
    store = SqlStore(*engines(tmp_path / "tidings.db"), Sealer("a secret for the tests"), {})
    with pytest.raises(BackendError, match=r"schema 9999, which is newer than this program"):
        await store.upgrade()
    assert not (await store.schema_status()).up_to_date
    await store.close()
