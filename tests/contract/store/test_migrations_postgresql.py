"""What PostgreSQL has of its own: partitions, collations, triggers for foreign keys, indexes made beside writers."""

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
from tidings.stores import migrate, partitions, schema_version
from tidings.stores.connection import Blocking, at_once
from tidings.stores.locks import SCHEMA
from tidings.stores.partitions import WEEKS_AHEAD, Week
from tidings.stores.postgres import engines

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
#: an id of that week, and one of 1970
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
    writer, _ = engines(postgres_url, pool_size=4)
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


async def _do(connection: AsyncConnection, *statements: str) -> None:
    for statement in statements:
        await connection.exec_driver_sql(statement)
    await connection.commit()


async def test_what_rows_are_found_by_is_compared_by_its_bytes(upgraded: AsyncConnection) -> None:
    """Else pages in the order of ids would follow the server's locale, and joins would compare in two ways."""
    assert (
        await _column(
            upgraded,
            """SELECT DISTINCT table_name || '.' || column_name FROM information_schema.columns
        JOIN pg_index ON indrelid = to_regclass(table_name) AND ordinal_position = ANY (indkey::int2[])
        WHERE table_schema = 'public' AND data_type IN ('character varying', 'text')
        AND collation_name IS DISTINCT FROM 'C' AND table_name <> 'alembic_version'""",
        )
        == []
    )


async def test_the_ledger_lies_in_weeks(upgraded: AsyncConnection) -> None:
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
    weeks = await upgraded.run_sync(lambda at: at_once(partitions.weeks(Blocking(at), "deliveries")))
    assert weeks[0] == Week.of(NOW)
    assert len(weeks) == WEEKS_AHEAD + 1
    assert weeks[0].of_table("deliveries") == "deliveries_2026_w47"


async def test_a_row_lies_in_the_week_of_its_id(upgraded: AsyncConnection) -> None:
    await _do(upgraded, USER, *(one.format(this) for this in (NEW, OLD) for one in (NOTIFICATION, DELIVERY, SKIP, TRY)))
    for table in partitions.KEYS:
        assert await _column(upgraded, f"SELECT tableoid::regclass::text FROM {table} ORDER BY 1") == [
            f"{table}_2026_w47",
            f"{table}_default",
        ]


async def test_a_week_takes_its_rows_out_of_the_default_partition(upgraded: AsyncConnection) -> None:
    late = NOW + timedelta(weeks=WEEKS_AHEAD + 1)
    await _do(upgraded, USER, *(one.format(id_made(late)) for one in (NOTIFICATION, DELIVERY, SKIP, TRY)))
    assert await _column(upgraded, "SELECT count(*) FROM deliveries_default") == [1]
    await upgraded.run_sync(migrate.upgrade, NOW + timedelta(weeks=1))
    for table in partitions.KEYS:
        name = Week.of(late).of_table(table)
        assert await _column(upgraded, f"SELECT tableoid::regclass::text FROM {table}") == [name]
    lacking = "SELECT count(*) FROM pg_index WHERE indrelid = '{}'::regclass AND NOT indisvalid"
    assert await _column(upgraded, lacking.format(Week.of(late).of_table("deliveries"))) == [0]


async def test_what_hangs_on_a_notification_goes_with_it(upgraded: AsyncConnection) -> None:
    await _do(upgraded, USER, *(one.format(this) for this in (NEW, OLD) for one in (NOTIFICATION, DELIVERY, SKIP, TRY)))
    await _do(upgraded, f"DELETE FROM notifications WHERE id = '{NEW}'")
    for table in partitions.KEYS:
        assert await _column(upgraded, f"SELECT count(*) FROM {table}") == [1]
    await _do(upgraded, f"DELETE FROM deliveries WHERE id = '{OLD}'")
    assert await _column(upgraded, "SELECT count(*) FROM attempts") == [0]
    assert await _column(upgraded, "SELECT count(*) FROM skips") == [1]


async def test_who_waits_for_the_schema_says_so_in_the_end(writer: AsyncEngine, postgres_url: str) -> None:
    other = await asyncpg.connect(postgres_url)
    await other.execute(f"SELECT pg_advisory_lock({SCHEMA})")
    async with writer.connect() as connection:
        with pytest.raises(BackendError, match="another process has been changing the schema for 1 s; wait for it"):
            await connection.run_sync(lambda at: migrate.downgrade(at, "0002", patience=0.6))
        await other.close()
        await connection.run_sync(lambda at: migrate.downgrade(at, "0002", patience=0.6))
        assert (await connection.run_sync(schema_version.status)).current == "0002"


async def test_a_partition_that_cannot_be_made_now_is_made_later(writer: AsyncEngine, postgres_url: str) -> None:
    later = NOW + timedelta(weeks=1)
    other = await asyncpg.connect(postgres_url)
    async with other.transaction():
        await other.execute("LOCK TABLE deliveries_default IN ACCESS SHARE MODE")
        async with writer.connect() as connection:
            await connection.run_sync(migrate.upgrade, later)
            made = await connection.run_sync(lambda at: at_once(partitions.missing(Blocking(at), later)))
            assert [table for table, _ in made] == ["deliveries"]
    await other.close()
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade, later)
        assert await connection.run_sync(lambda at: at_once(partitions.missing(Blocking(at), later))) == []


async def test_writers_go_on_while_an_index_is_made(writer: AsyncEngine, postgres_url: str) -> None:
    """A reader's old snapshot holds the making up half-way, for as long as this test needs."""
    async with writer.connect() as connection:
        await connection.run_sync(migrate.downgrade, "0002")
        await _do(connection, USER, NOTIFICATION.format(NEW), DELIVERY.format(NEW))
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
        this = id_made(NOW)[:-1] + str(number)
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


async def test_a_half_made_index_is_made_again(upgraded: AsyncConnection) -> None:
    await upgraded.run_sync(migrate.downgrade, "0002")
    await _do(
        upgraded,
        "CREATE INDEX ix_deliveries_dead ON ONLY deliveries (id) WHERE state = 'refused'",
        "CREATE INDEX deliveries_default_dead ON deliveries_default (id) WHERE state = 'refused'",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'deliveries_default_dead'::regclass",
    )
    await upgraded.run_sync(migrate.upgrade, NOW)
    assert await _column(upgraded, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [0]


async def test_no_row_is_in_two_weeks_and_none_between_them(upgraded: AsyncConnection) -> None:
    bounds = await _column(
        upgraded,
        """SELECT pg_get_expr(relpartbound, oid) FROM pg_class
        WHERE relname LIKE 'deliveries_2026%' AND relkind = 'r' ORDER BY relname""",
    )
    ends = [re.findall(r"'([0-9a-f-]{36})'", str(bound)) for bound in bounds]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))


async def test_what_fails_half_way_can_be_run_again(upgraded: AsyncConnection) -> None:
    await upgraded.run_sync(migrate.downgrade, "0002")
    await _do(upgraded, "CREATE TABLE user_limits ()")
    with pytest.raises(DBAPIError, match="already exists"):
        await upgraded.run_sync(migrate.upgrade, NOW)
    assert (await upgraded.run_sync(schema_version.status)).current == "0002"
    await upgraded.rollback()
    await _do(upgraded, "DROP TABLE user_limits")
    await upgraded.run_sync(migrate.upgrade, NOW)
    assert (await upgraded.run_sync(schema_version.status)).up_to_date


def id_made(at: datetime) -> str:
    """An id of an instant."""
    digits = f"{int(at.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000001"
