"""The schema version is determined without Alembic, with the same result."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.stores.engine.postgres import create_engines
from tidings.stores.schema import migrate, partitions, version
from tidings.stores.schema.ensure_current import ensure_current
from tidings.testing.postgres import PostgresServer

NOW = datetime.now(UTC)


def test_the_head_revision_equals_alembics() -> None:
    scripts: ScriptDirectory = migrate._load_scripts()
    assert scripts.get_current_head() == version.HEAD_REVISION


def test_a_process_imports_alembic_only_to_migrate() -> None:
    loaded = "import sys, tidings.server.roles; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"


async def test_a_database_is_ready_after_its_migration(postgres_url: str) -> None:
    writer, _ = create_engines(postgres_url, pool_size=1)
    try:
        await _check(writer)
    finally:
        await writer.dispose()


async def _check(writer: AsyncEngine) -> None:
    async with writer.connect() as connection:
        assert not await connection.run_sync(version.is_ready)
        await connection.run_sync(ensure_current)
        assert await connection.run_sync(version.is_ready)
        await connection.execute(text("ALTER TABLE deliveries_default ALTER COLUMN notification_id RESET (n_distinct)"))
        await connection.commit()
        assert not await connection.run_sync(version.is_ready), "a partition lacks its planner statistics override"
        await connection.run_sync(ensure_current)
        assert await connection.run_sync(version.is_ready)
        later = NOW + timedelta(weeks=partitions.WEEKS_AHEAD)
        assert not await connection.run_sync(version.is_ready, later), "coming weeks have no partition yet"
        await connection.run_sync(migrate.downgrade, "0002")
        assert not await connection.run_sync(version.is_ready)


async def test_a_second_start_needs_no_migration(postgres: PostgresServer, postgres_url: str) -> None:
    writer, _ = create_engines(postgres_url, pool_size=1)
    try:
        async with writer.connect() as connection:
            await connection.run_sync(ensure_current)
            before = postgres.run_sql("SELECT count(*) FROM pg_class", postgres_url.rpartition("/")[2])
            await connection.run_sync(ensure_current)
            assert postgres.run_sql("SELECT count(*) FROM pg_class", postgres_url.rpartition("/")[2]) == before
    finally:
        await writer.dispose()
