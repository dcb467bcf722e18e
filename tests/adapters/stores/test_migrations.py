"""Migrations upgrade an empty database to the declared schema, and downgrade it, on each dialect."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.errors import BackendError, ValidationFailed
from tidings.packs.events import tables
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines as postgres_engines
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.schema import migrate, version
from tidings.stores.schema.tables import metadata
from tidings.stores.store import SqlStore

PARTITION = re.compile(r"_(\d{4}_w\d\d|default)$")


@pytest.fixture(params=["sqlite", "postgresql"])
async def writer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "sqlite":
        writer, reader = create_engines(tmp_path / "tidings.db")
    else:
        writer, reader = postgres_engines(request.getfixturevalue("postgres_url"), pool_size=2)
    yield writer
    await reader.dispose()
    await writer.dispose()


@pytest.fixture
async def sqlite_writer(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    writer, reader = create_engines(tmp_path / "tidings.db")
    yield writer
    await reader.dispose()
    await writer.dispose()


def _tables(connection: Connection) -> set[str]:
    return {name for name in inspect(connection).get_table_names() if not PARTITION.search(name)} - {"alembic_version"}


def _differences(connection: Connection) -> list[Any]:
    dialect = connection.dialect.name

    def is_declared(declared: Any, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        condition = getattr(declared, "_ddl_if", None)
        elsewhere = condition is not None and condition.dialect != dialect
        return not elsewhere and not (kind == "table" and PARTITION.search(name or ""))

    options = {"compare_type": True, "include_object": is_declared}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_the_schema_can_be_upgraded_downgraded_and_upgraded_again(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        assert (await connection.run_sync(version.read_status)).current_revision is None
        await connection.rollback()
        for _ in range(2):
            await connection.run_sync(migrate.upgrade)
            assert (await connection.run_sync(version.read_status)).is_current
            assert await connection.run_sync(_tables) == set(metadata.tables)
            await connection.rollback()
            await connection.run_sync(migrate.downgrade, "base")
            assert await connection.run_sync(_tables) == set()
            await connection.rollback()


async def test_every_downgrade_step_can_be_upgraded_again(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        for revision in ("0005", "0004", "0003", "0002", "0001"):
            await connection.run_sync(migrate.upgrade)
            await connection.run_sync(migrate.downgrade, revision)
            assert (await connection.run_sync(version.read_status)).current_revision == revision
            await connection.rollback()


async def test_a_missing_schema_is_reported_as_missing(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        with pytest.raises(
            ValidationFailed, match="'0815' is not an earlier revision; must be one of base, 0001, 0002"
        ):
            await connection.run_sync(migrate.downgrade, "0815")
        assert (await connection.run_sync(version.read_status)).is_current


async def test_the_migrated_schema_equals_the_declared_one(writer: AsyncEngine) -> None:
    assert tables.events.metadata is metadata
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        assert await connection.run_sync(_differences) == []


async def test_sqlite_migrations_create_exactly_the_declared_tables_and_indexes(
    sqlite_writer: AsyncEngine, tmp_path: Path
) -> None:
    """Covers partial index conditions and WITHOUT ROWID, which a comparison of names and columns misses."""
    declared, _ = create_engines(tmp_path / "declared.db")
    async with declared.begin() as connection:
        await connection.run_sync(metadata.create_all)
        expected = await connection.run_sync(_shape)
    await declared.dispose()
    async with sqlite_writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        assert await connection.run_sync(_shape) == expected


def _shape(connection: Connection) -> dict[str, str]:
    rows = connection.execute(text("SELECT name, type, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%'"))
    # only the order of constraints may differ
    return {
        row.name: " ".join(row.sql.split()) if row.type == "index" else str("WITHOUT ROWID" in row.sql)
        for row in rows
        if row.sql
    }


async def test_postgresql_migrations_create_exactly_the_declared_indexes(postgres_url: str) -> None:
    """Compares uniqueness, order and conditions, as the server itself prints them for the declared indexes."""
    writer, _ = postgres_engines(postgres_url, pool_size=1)
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        migrated, declared = await connection.run_sync(_indexes)
    await writer.dispose()
    assert migrated == declared


def _indexes(connection: Connection) -> tuple[Mapping[str, str], Mapping[str, str]]:
    migrated: dict[str, str] = {}
    declared: dict[str, str] = {}
    definition = text("SELECT pg_get_indexdef(to_regclass(:name))")
    for table in metadata.sorted_tables:
        connection.execute(text(f"CREATE TEMP TABLE probe (LIKE {table.name})"))
        for index in table.indexes:
            if index._ddl_if is not None:
                continue
            unique = "UNIQUE " if index.unique else ""
            where = index.dialect_options["postgresql"]["where"]
            condition = "" if where is None else f" WHERE {where}"
            columns = ", ".join(column.name for column in index.columns)
            connection.execute(text(f"CREATE {unique}INDEX probe_index ON probe ({columns}){condition}"))
            for name, found in ((str(index.name), migrated), ("probe_index", declared)):
                words = str(connection.scalar(definition.bindparams(name=name)))
                found[str(index.name)] = re.sub(r"INDEX \S+ ON (ONLY )?\S+", "INDEX ON", words)
            connection.execute(text("DROP INDEX probe_index"))
        connection.execute(text("DROP TABLE probe"))
    return migrated, declared


async def test_a_newer_database_is_reported_and_left_unchanged(sqlite_writer: AsyncEngine, tmp_path: Path) -> None:
    async with sqlite_writer.connect() as connection:
        await connection.run_sync(migrate.upgrade)
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.commit()
    store = SqlStore(*create_engines(tmp_path / "tidings.db"), FieldCipher("a secret for the tests"), {})
    with pytest.raises(BackendError, match=r"schema 9999, which is newer than this program"):
        await store.upgrade()
    assert not (await store.schema_status()).is_current
    await store.close()
