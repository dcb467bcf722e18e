"""Retention: old notifications are purged with their rows, open ones never; partitions exist in advance."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import func, insert, select, text, update

from tidings.model.audience import users
from tidings.model.notification import NotificationState
from tidings.model.user import User
from tidings.ports.store import Store
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines as postgres_engines
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema import migrate, partitions
from tidings.stores.schema.partitions import WEEKS_AHEAD, Week
from tidings.stores.schema.retention import RetentionResult, run_retention
from tidings.stores.schema.tables import attempts, deliveries, metadata, notifications, skips
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import make_id_at, make_notification

#: a Sunday
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEEP = timedelta(days=90)
OLD = NOW - timedelta(days=120)
PARTITIONED_TABLES = (notifications, deliveries, skips, attempts)


async def _open(dialect: str, at: datetime, request: pytest.FixtureRequest, tmp_path: Path) -> SqlStore:
    """Open a store whose schema was created at an instant."""
    if dialect == "sqlite":
        pair = create_engines(tmp_path / "tidings.db")
    else:
        pair = postgres_engines(request.getfixturevalue("postgres_url"), pool_size=3)
    store = SqlStore(*pair, FieldCipher("a secret for the tests"), {})
    async with pair[0].connect() as connection:
        await connection.run_sync(migrate.upgrade, at)
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana")], NOW)
    return store


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await _open(request.param, NOW, request, tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def weekly_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A PostgreSQL store whose schema was created in the old week."""
    opened = await _open("postgresql", OLD, request, tmp_path)
    yield opened
    await opened.close()


async def _add_notification(
    store: Store,
    at: datetime,
    *,
    state: str = "delivered",
    notification_state: NotificationState = NotificationState.FANNED_OUT,
    people: int = 1,
) -> str:
    """Store a notification created at an instant, with deliveries (one attempt each) and a skip; return its id."""
    notification_id = make_id_at(at)
    notification = make_notification(users("ana"), state=notification_state)
    async with store.transaction() as tx:
        await store.notifications.add_many(tx, [notification])
        await connection_of(tx).execute(
            update(notifications).where(notifications.c.id == notification.id).values(id=notification_id)
        )
        rows = [
            {
                "id": make_id_at(at + timedelta(milliseconds=number)),
                "notification_id": notification_id,
                "user_id": f"user-{number}",
                "channel": "webpush",
                "target_id": make_id_at(at),
                "lane": "high",
                "state": state,
                "rule": "on by default",
                "due_at": at,
                "attempts": 1,
                "created_at": at,
                "updated_at": at,
            }
            for number in range(people)
        ]
        await connection_of(tx).execute(insert(deliveries), rows)
        attempt = {"started_at": at, "number": 1, "outcome": "delivered", "why": "", "finished_at": at}
        await connection_of(tx).execute(insert(attempts), [{"delivery_id": row["id"]} | attempt for row in rows])
        skip = {"user_id": "ben", "channel": "webpush", "reason": "no_device", "detail": {}, "created_at": at}
        await connection_of(tx).execute(
            insert(skips), [{"id": make_id_at(at), "notification_id": notification_id} | skip]
        )
    return notification_id


async def _count_rows(store: Store) -> dict[str, int]:
    async with store.read_snapshot() as tx:
        return {
            one.name: await connection_of(tx).scalar(select(func.count()).select_from(one))
            for one in PARTITIONED_TABLES
        }


async def _remaining_ids(store: Store) -> set[str]:
    async with store.read_snapshot() as tx:
        return set((await connection_of(tx).scalars(select(notifications.c.id))).all())


async def test_an_old_notification_is_purged_with_its_rows(store: SqlStore) -> None:
    await _add_notification(store, OLD, people=3)
    await _add_notification(store, OLD + timedelta(days=1), notification_state=NotificationState.CANCELLED)
    recent = await _add_notification(store, NOW - timedelta(days=80))
    done = await run_retention(store, NOW, KEEP)
    assert await _remaining_ids(store) == {recent}
    assert await _count_rows(store) == {"notifications": 1, "deliveries": 1, "skips": 1, "attempts": 1}
    assert (done.notifications_deleted, done.rows_deleted) == (2, 6)


async def test_nothing_is_purged_when_retention_is_unlimited(store: SqlStore) -> None:
    await _add_notification(store, OLD)
    assert (await run_retention(store, NOW, timedelta(0))).notifications_deleted == 0
    assert len(await _remaining_ids(store)) == 1


@pytest.mark.parametrize("state", ["pending", "sending"])
async def test_a_notification_with_pending_deliveries_is_kept(store: SqlStore, state: str) -> None:
    kept = await _add_notification(store, OLD, state=state)
    await _add_notification(store, OLD)
    await run_retention(store, NOW, KEEP)
    assert await _remaining_ids(store) == {kept}
    assert (await _count_rows(store))["deliveries"] == 1


@pytest.mark.parametrize("state", [NotificationState.ACCEPTED, NotificationState.FANNING_OUT])
async def test_a_notification_that_is_not_fanned_out_is_kept(store: SqlStore, state: NotificationState) -> None:
    kept = await _add_notification(store, OLD, notification_state=state)
    await run_retention(store, NOW, KEEP)
    assert await _remaining_ids(store) == {kept}
    assert (await _count_rows(store))["deliveries"] == 1


async def test_a_purge_is_limited_and_the_next_one_continues(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.stores.schema.retention.ROWS_PER_TRANSACTION", 2)
    await _add_notification(store, OLD, people=9)
    assert await run_retention(store, NOW, KEEP, max_rows=4) == RetentionResult(
        partitions_created=0, partitions_dropped=0, notifications_deleted=0, rows_deleted=4
    )
    assert (await _count_rows(store))["deliveries"] == 5
    assert (await run_retention(store, NOW, KEEP)).notifications_deleted == 1
    assert await _count_rows(store) == dict.fromkeys(("notifications", "deliveries", "skips", "attempts"), 0)


async def test_a_purge_proceeds_page_by_page(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.stores.schema.retention.PAGE_SIZE", 2)
    kept = await _add_notification(store, OLD, state="pending")
    for day in range(5):
        await _add_notification(store, OLD + timedelta(days=day))
    assert (await run_retention(store, NOW, KEEP)).notifications_deleted == 5
    assert await _remaining_ids(store) == {kept}


async def _weeks(store: Store, table: str) -> list[Week]:
    async with store.read_snapshot() as tx:
        return list(await partitions.list_weeks(connection_of(tx), table))


async def test_partitions_of_coming_weeks_are_created(weekly_store: SqlStore) -> None:
    later = NOW + timedelta(weeks=20)
    assert (await run_retention(weekly_store, later, timedelta(0))).partitions_created == 3 * (WEEKS_AHEAD + 1)
    assert (await run_retention(weekly_store, later, timedelta(0))).partitions_created == 0
    assert Week.from_instant(later + timedelta(weeks=WEEKS_AHEAD)) in await _weeks(weekly_store, "attempts")


async def test_an_old_partition_is_dropped_as_a_whole(weekly_store: SqlStore) -> None:
    await _add_notification(weekly_store, OLD, people=5)
    done = await run_retention(weekly_store, NOW, KEEP)
    # no rows are deleted: the week's partition and the empty ones created with it are dropped, in each of three tables
    assert (done.partitions_dropped, done.notifications_deleted, done.rows_deleted) == (3 * (WEEKS_AHEAD + 1), 1, 0)
    assert await _count_rows(weekly_store) == dict.fromkeys(("notifications", "deliveries", "skips", "attempts"), 0)
    for table in partitions.PARTITION_KEYS:
        assert Week.from_instant(OLD) not in await _weeks(weekly_store, table)


async def test_a_partition_is_kept_until_all_of_it_is_old(weekly_store: SqlStore) -> None:
    week = Week.from_instant(OLD)
    await _add_notification(weekly_store, week.start)
    almost = week.next.start + KEEP - timedelta(seconds=1)
    assert (await run_retention(weekly_store, almost, KEEP)).notifications_deleted == 0
    assert week in await _weeks(weekly_store, "deliveries")
    assert (await run_retention(weekly_store, almost + timedelta(seconds=1), KEEP)).notifications_deleted == 1
    assert week not in await _weeks(weekly_store, "deliveries")


@pytest.mark.parametrize("state", ["pending", "sending"])
async def test_a_partition_with_open_work_is_kept(weekly_store: SqlStore, state: str) -> None:
    kept = await _add_notification(weekly_store, OLD, state=state)
    await _add_notification(weekly_store, OLD)
    await run_retention(weekly_store, NOW, KEEP)
    for table in partitions.PARTITION_KEYS:
        assert Week.from_instant(OLD) in await _weeks(weekly_store, table)
    assert await _remaining_ids(weekly_store) == {kept}
    async with weekly_store.transaction() as tx:
        await connection_of(tx).execute(update(deliveries).values(state="delivered"))
    await run_retention(weekly_store, NOW, KEEP)
    for table in partitions.PARTITION_KEYS:
        assert Week.from_instant(OLD) not in await _weeks(weekly_store, table)


async def test_attempts_of_a_later_week_are_kept_with_their_delivery(weekly_store: SqlStore) -> None:
    """A notification fanned out a week later has deliveries in its own week and attempts in the next."""
    kept = await _add_notification(weekly_store, OLD, state="pending")
    async with weekly_store.transaction() as tx:
        late = make_id_at(OLD + timedelta(weeks=1))
        await connection_of(tx).execute(update(attempts).values(delivery_id=late))
        await connection_of(tx).execute(update(deliveries).values(id=late))
    await run_retention(weekly_store, NOW, KEEP)
    assert await _remaining_ids(weekly_store) == {kept}
    assert (await _count_rows(weekly_store))["attempts"] == 1


async def test_a_locked_table_is_left_for_the_next_purge(weekly_store: SqlStore, postgres_url: str) -> None:
    await _add_notification(weekly_store, OLD)
    other = await asyncpg.connect(postgres_url)
    async with other.transaction():
        await other.execute("SELECT count(*) FROM deliveries")
        await run_retention(weekly_store, NOW, KEEP)
        assert Week.from_instant(OLD) in await _weeks(weekly_store, "deliveries")
    await other.close()
    await run_retention(weekly_store, NOW, KEEP)
    assert Week.from_instant(OLD) not in await _weeks(weekly_store, "deliveries")


async def test_a_late_row_of_a_dropped_week_is_stored_in_the_default_partition(weekly_store: SqlStore) -> None:
    await run_retention(weekly_store, NOW, KEEP)
    late = await _add_notification(weekly_store, OLD)
    async with weekly_store.read_snapshot() as tx:
        assert await connection_of(tx).scalar(text("SELECT count(*) FROM deliveries_default")) == 1
    await run_retention(weekly_store, NOW, KEEP)
    assert late not in await _remaining_ids(weekly_store)
    assert await _count_rows(weekly_store) == dict.fromkeys((table.name for table in PARTITIONED_TABLES), 0)


def test_only_the_expected_tables_are_partitioned() -> None:
    declared = {
        name for name, table in metadata.tables.items() if table.dialect_options["postgresql"].get("partition_by")
    }
    assert declared == set(partitions.PARTITION_KEYS)
