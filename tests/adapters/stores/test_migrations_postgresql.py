"""Migrations on PostgreSQL: partitions, collations, foreign key triggers and concurrent index creation."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tidings.errors import BackendError
from tidings.stores.engine.postgres import create_engines
from tidings.stores.engine.schema_lock import SCHEMA_LOCK_ID
from tidings.stores.engine.transaction import SyncConnectionAdapter, run_sync
from tidings.stores.schema import migrate, partitions, version
from tidings.stores.schema.partitions import WEEKS_AHEAD, Week

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
#: an id of the week of `NOW`, and one of 1970
NEW, OLD = "01a20320-a200-7000-8000-000000000001", "00000000-0000-7000-8000-000000000001"
USER = "INSERT INTO users VALUES ('ana', NULL, NULL, 'en', 'UTC', NULL, '{}', now(), now())"
NOTIFICATION = """INSERT INTO notifications SELECT id, 'T', 1, 'C', '{{}}', '{{}}', 'high', '[]', NULL, NULL, NULL,
    now(), now(), now(), 'fanned_out', NULL, 1, 1, 0 FROM (SELECT '{0}'::uuid AS id) AS one"""
DELIVERY = """INSERT INTO deliveries (id, notification_id, user_id, channel, target_id, lane, state, rule, due_at,
    attempts, created_at, updated_at)
    VALUES ('{0}', '{0}', 'ana', 'webpush', '{0}', 'high', 'refused', 'r', now(), 1, now(), now())"""
TRY = "INSERT INTO attempts VALUES ('{0}', now(), 1, 'refused', 'no', 400, now())"
SKIP = "INSERT INTO skips VALUES ('{0}', '{0}', 'ana', 'email', 'no_device', '{{}}', now())"


@pytest.fixture
async def writer(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    writer, _ = create_engines(postgres_url, pool_size=4)
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade, NOW)
    yield writer
    await writer.dispose()


@pytest.fixture
async def upgraded(writer: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with writer.connect() as connection:
        yield connection


async def _column(connection: AsyncConnection, sql: str) -> list[object]:
    found = list((await connection.scalars(text(sql))).all())
    await connection.rollback()
    return found


async def _execute(connection: AsyncConnection, *statements: str) -> None:
    for statement in statements:
        await connection.exec_driver_sql(statement)
    await connection.commit()


async def test_key_columns_use_the_c_collation(upgraded: AsyncConnection) -> None:
    """Otherwise id order would follow the server's locale, and joins would mix two collations.

    Names of time zones are no keys: no order of theirs is visible, and they are compared with each other only.
    """
    assert (
        await _column(
            upgraded,
            """SELECT DISTINCT table_name || '.' || column_name FROM information_schema.columns
        JOIN pg_index ON indrelid = to_regclass(table_name) AND ordinal_position = ANY (indkey::int2[])
        WHERE table_schema = 'public' AND data_type IN ('character varying', 'text')
        AND collation_name IS DISTINCT FROM 'C' AND table_name <> 'alembic_version'
        AND column_name <> 'timezone'""",
        )
        == []
    )


async def test_deliveries_skips_and_attempts_are_partitioned_by_week(upgraded: AsyncConnection) -> None:
    keys = await _column(
        upgraded,
        """SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'
        AND conrelid IN ('deliveries'::regclass, 'skips'::regclass, 'attempts'::regclass) ORDER BY 1""",
    )
    assert keys == [
        "PRIMARY KEY (delivery_id, started_at)",
        "PRIMARY KEY (notification_id, id)",
        "PRIMARY KEY (notification_id, id)",
    ]
    weeks = await upgraded.run_sync(lambda at: run_sync(partitions.list_weeks(SyncConnectionAdapter(at), "deliveries")))
    assert weeks[0] == Week.from_instant(NOW)
    assert len(weeks) == WEEKS_AHEAD + 1
    assert weeks[0].partition_name("deliveries") == "deliveries_2026_w47"


async def test_a_row_is_stored_in_the_partition_of_its_ids_week(upgraded: AsyncConnection) -> None:
    await _execute(
        upgraded, USER, *(one.format(this) for this in (NEW, OLD) for one in (NOTIFICATION, DELIVERY, SKIP, TRY))
    )
    for table in partitions.PARTITION_KEYS:
        assert await _column(upgraded, f"SELECT tableoid::regclass::text FROM {table} ORDER BY 1") == [
            f"{table}_2026_w47",
            f"{table}_default",
        ]


async def test_a_new_partition_takes_its_rows_from_the_default_partition(upgraded: AsyncConnection) -> None:
    late = NOW + timedelta(weeks=WEEKS_AHEAD + 1)
    await _execute(upgraded, USER, *(one.format(id_at(late)) for one in (NOTIFICATION, DELIVERY, SKIP, TRY)))
    assert await _column(upgraded, "SELECT count(*) FROM deliveries_default") == [1]
    await upgraded.run_sync(migrate.upgrade, NOW + timedelta(weeks=1))
    for table in partitions.PARTITION_KEYS:
        name = Week.from_instant(late).partition_name(table)
        assert await _column(upgraded, f"SELECT tableoid::regclass::text FROM {table}") == [name]
    missing = "SELECT count(*) FROM pg_index WHERE indrelid = '{}'::regclass AND NOT indisvalid"
    assert await _column(upgraded, missing.format(Week.from_instant(late).partition_name("deliveries"))) == [0]


async def test_deleting_a_notification_deletes_its_dependent_rows(upgraded: AsyncConnection) -> None:
    await _execute(
        upgraded, USER, *(one.format(this) for this in (NEW, OLD) for one in (NOTIFICATION, DELIVERY, SKIP, TRY))
    )
    await _execute(upgraded, f"DELETE FROM notifications WHERE id = '{NEW}'")
    for table in partitions.PARTITION_KEYS:
        assert await _column(upgraded, f"SELECT count(*) FROM {table}") == [1]
    await _execute(upgraded, f"DELETE FROM deliveries WHERE id = '{OLD}'")
    assert await _column(upgraded, "SELECT count(*) FROM attempts") == [0]
    assert await _column(upgraded, "SELECT count(*) FROM skips") == [1]


async def test_a_process_that_waits_for_the_schema_lock_times_out_with_a_message(
    writer: AsyncEngine, postgres_url: str
) -> None:
    other = await asyncpg.connect(postgres_url)
    await other.execute(f"SELECT pg_advisory_lock({SCHEMA_LOCK_ID})")
    async with writer.connect() as connection:
        with pytest.raises(BackendError, match="another process has been changing the schema for 1 s; wait for it"):
            await connection.run_sync(lambda at: migrate.downgrade(at, "0002", lock_timeout=0.6))
        await other.close()
        await connection.run_sync(lambda at: migrate.downgrade(at, "0002", lock_timeout=0.6))
        assert (await connection.run_sync(version.read_status)).current_revision == "0002"


async def test_a_partition_that_cannot_be_created_now_is_created_later(writer: AsyncEngine, postgres_url: str) -> None:
    later = NOW + timedelta(weeks=1)
    other = await asyncpg.connect(postgres_url)
    async with other.transaction():
        await other.execute("LOCK TABLE deliveries_default IN ACCESS SHARE MODE")
        async with writer.connect() as connection:
            await connection.run_sync(migrate.upgrade, later)
            created = await connection.run_sync(
                lambda at: run_sync(partitions.list_missing(SyncConnectionAdapter(at), later))
            )
            assert [table for table, _ in created] == ["deliveries"]
    await other.close()
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade, later)
        assert (
            await connection.run_sync(lambda at: run_sync(partitions.list_missing(SyncConnectionAdapter(at), later)))
            == []
        )


async def test_writers_are_not_blocked_while_an_index_is_created(writer: AsyncEngine, postgres_url: str) -> None:
    """A reader's old snapshot blocks the index creation half-way, for as long as this test needs."""
    async with writer.connect() as connection:
        await connection.run_sync(migrate.downgrade, "0002")
        await _execute(connection, USER, NOTIFICATION.format(NEW), DELIVERY.format(NEW))
    reader, client = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    await client.execute("SET lock_timeout = '1s'")
    old_snapshot = reader.transaction(isolation="repeatable_read", readonly=True)
    await old_snapshot.start()
    await reader.fetchval("SELECT count(*) FROM users")

    async def upgrade() -> None:
        async with writer.connect() as connection:
            await connection.run_sync(migrate.upgrade, NOW)

    upgrading = asyncio.create_task(upgrade())
    waiting = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase = 'waiting for old snapshots'"
    async with asyncio.timeout(20):
        while not await client.fetchval(waiting):
            assert not upgrading.done()
    for number in range(2, 10):
        this = id_at(NOW)[:-1] + str(number)
        await client.execute(NOTIFICATION.format(this))
        await client.execute(DELIVERY.format(this))
        await client.execute(f"UPDATE deliveries SET attempts = 2 WHERE notification_id = '{this}'")
    assert not upgrading.done()
    await old_snapshot.commit()
    await upgrading
    assert await client.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_deliveries_dead'::regclass")
    assert (
        await client.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'ix_deliveries_dead'::regclass") > 5
    )
    await client.execute("SET enable_seqscan = off")
    assert await client.fetchval("SELECT count(id) FROM deliveries WHERE state = 'refused'") == 9
    await reader.close()
    await client.close()


async def test_an_invalid_index_is_created_again(upgraded: AsyncConnection) -> None:
    await upgraded.run_sync(migrate.downgrade, "0002")
    await _execute(
        upgraded,
        "CREATE INDEX ix_deliveries_dead ON ONLY deliveries (id) WHERE state = 'refused'",
        "CREATE INDEX deliveries_default_dead ON deliveries_default (id) WHERE state = 'refused'",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'deliveries_default_dead'::regclass",
    )
    await upgraded.run_sync(migrate.upgrade, NOW)
    assert await _column(upgraded, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [0]


async def test_partition_bounds_neither_overlap_nor_leave_gaps(upgraded: AsyncConnection) -> None:
    bounds = await _column(
        upgraded,
        """SELECT pg_get_expr(relpartbound, oid) FROM pg_class
        WHERE relname LIKE 'deliveries_2026%' AND relkind = 'r' ORDER BY relname""",
    )
    ends = [re.findall(r"'([0-9a-f-]{36})'", str(bound)) for bound in bounds]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))


async def test_a_migration_that_failed_half_way_can_be_repeated(upgraded: AsyncConnection) -> None:
    await upgraded.run_sync(migrate.downgrade, "0002")
    await _execute(upgraded, "CREATE TABLE user_limits ()")
    with pytest.raises(DBAPIError, match="already exists"):
        await upgraded.run_sync(migrate.upgrade, NOW)
    assert (await upgraded.run_sync(version.read_status)).current_revision == "0002"
    await upgraded.rollback()
    await _execute(upgraded, "DROP TABLE user_limits")
    await upgraded.run_sync(migrate.upgrade, NOW)
    assert (await upgraded.run_sync(version.read_status)).is_current


def id_at(at: datetime) -> str:
    """Return an id created at an instant."""
    digits = f"{int(at.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000001"
