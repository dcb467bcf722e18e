"""The schema's version is told without Alembic, and says the same."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.stores import migrate, partitions, schema_version
from tidings.stores.postgres import engines
from tidings.stores.prepare import prepare
from tidings.testing.postgres import PostgresServer

NOW = datetime.now(UTC)


def test_the_newest_schema_is_the_one_that_alembic_finds() -> None:
    scripts: ScriptDirectory = migrate._scripts()
    assert scripts.get_current_head() == schema_version.HEAD


def test_a_process_loads_alembic_only_to_migrate() -> None:
    loaded = "import sys, tidings.server.processes; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"


async def test_a_database_is_ready_once_it_is_migrated(postgres_url: str) -> None:
    writer, _ = engines(postgres_url, pool_size=1)
    try:
        await _check(writer)
    finally:
        await writer.dispose()


async def _check(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        assert not await connection.run_sync(schema_version.is_ready)
        await connection.run_sync(prepare)
        assert await connection.run_sync(schema_version.is_ready)
        await connection.execute(text("ALTER TABLE deliveries_default ALTER COLUMN notification_id RESET (n_distinct)"))
        await connection.commit()
        assert not await connection.run_sync(schema_version.is_ready), "the planner was not told of a partition"
        await connection.run_sync(prepare)
        assert await connection.run_sync(schema_version.is_ready)
        later = NOW + timedelta(weeks=partitions.WEEKS_AHEAD)
        assert not await connection.run_sync(schema_version.is_ready, later), "weeks that come have no partition yet"
        await connection.run_sync(migrate.downgrade, "0002")
        assert not await connection.run_sync(schema_version.is_ready)


async def test_a_second_start_needs_no_migration(postgres: PostgresServer, postgres_url: str) -> None:
    writer, _ = engines(postgres_url, pool_size=1)
    try:
        async with writer.connect() as connection:
            await connection.run_sync(prepare)
            before = postgres.sql("SELECT count(*) FROM pg_class", postgres_url.rpartition("/")[2])
            await connection.run_sync(prepare)
            assert postgres.sql("SELECT count(*) FROM pg_class", postgres_url.rpartition("/")[2]) == before
    finally:
        await writer.dispose()
