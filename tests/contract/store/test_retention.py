"""What is old goes with all about it, nothing open ever does, and the weeks that come are there before they come."""

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
from tidings.stores import migrate, partitions
from tidings.stores.connection import of
from tidings.stores.partitions import WEEKS_AHEAD, Week
from tidings.stores.postgres import engines as postgres_engines
from tidings.stores.retention import Tidied, tidy
from tidings.stores.schema import attempts, deliveries, metadata, notifications, skips
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import a_notification, an_id

#: a Sunday
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEEP = timedelta(days=90)
OLD = NOW - timedelta(days=120)
LEDGER = (notifications, deliveries, skips, attempts)


async def _open(dialect: str, at: datetime, request: pytest.FixtureRequest, tmp_path: Path) -> SqlStore:
    """Open a store that was made at an instant."""
    if dialect == "sqlite":
        pair = engines(tmp_path / "tidings.db")
    else:
        pair = postgres_engines(request.getfixturevalue("postgres_url"), pool_size=3)
    store = SqlStore(*pair, Sealer("a secret for the tests"), {})
    async with pair[0].connect() as connection:
        await connection.run_sync(migrate.upgrade, at)
    async with store.begin() as tx:
        await store.users.upsert(tx, [User("ana")], NOW)
    return store


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await _open(request.param, NOW, request, tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def weekly(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A store on PostgreSQL that was made in the old week."""
    opened = await _open("postgresql", OLD, request, tmp_path)
    yield opened
    await opened.close()


async def _told(
    store: Store,
    at: datetime,
    *,
    state: str = "delivered",
    notification_state: NotificationState = NotificationState.FANNED_OUT,
    people: int = 1,
) -> str:
    """Store a notification of an instant with deliveries (one try each) and a skip; returns its id."""
    notification_id = an_id(at)
    told = a_notification(users("ana"), state=notification_state)
    async with store.begin() as tx:
        await store.notifications.add(tx, told)
        await of(tx).execute(update(notifications).where(notifications.c.id == told.id).values(id=notification_id))
        rows = [
            {
                "id": an_id(at + timedelta(milliseconds=number)),
                "notification_id": notification_id,
                "user_id": f"user-{number}",
                "channel": "webpush",
                "target_id": an_id(at),
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
        await of(tx).execute(insert(deliveries), rows)
        tried = {"started_at": at, "number": 1, "outcome": "delivered", "why": "", "finished_at": at}
        await of(tx).execute(insert(attempts), [{"delivery_id": row["id"]} | tried for row in rows])
        silent = {"user_id": "ben", "channel": "webpush", "reason": "no_device", "detail": {}, "created_at": at}
        await of(tx).execute(insert(skips), [{"id": an_id(at), "notification_id": notification_id} | silent])
    return notification_id


async def _counts(store: Store) -> dict[str, int]:
    async with store.read() as tx:
        return {one.name: await of(tx).scalar(select(func.count()).select_from(one)) for one in LEDGER}


async def _kept(store: Store) -> set[str]:
    async with store.read() as tx:
        return set((await of(tx).scalars(select(notifications.c.id))).all())


async def test_what_is_old_goes_with_all_about_it(store: SqlStore) -> None:
    await _told(store, OLD, people=3)
    await _told(store, OLD + timedelta(days=1), notification_state=NotificationState.CANCELLED)
    young = await _told(store, NOW - timedelta(days=80))
    done = await tidy(store, NOW, KEEP)
    assert await _kept(store) == {young}
    assert await _counts(store) == {"notifications": 1, "deliveries": 1, "skips": 1, "attempts": 1}
    assert (done.notifications, done.rows) == (2, 6)


async def test_nothing_goes_when_everything_is_kept_for_ever(store: SqlStore) -> None:
    await _told(store, OLD)
    assert (await tidy(store, NOW, timedelta(0))).notifications == 0
    assert len(await _kept(store)) == 1


@pytest.mark.parametrize("state", ["pending", "sending"])
async def test_what_is_still_to_be_sent_stays(store: SqlStore, state: str) -> None:
    stays = await _told(store, OLD, state=state)
    await _told(store, OLD)
    await tidy(store, NOW, KEEP)
    assert await _kept(store) == {stays}
    assert (await _counts(store))["deliveries"] == 1


@pytest.mark.parametrize("state", [NotificationState.ACCEPTED, NotificationState.FANNING_OUT])
async def test_what_is_not_fanned_out_stays(store: SqlStore, state: NotificationState) -> None:
    stays = await _told(store, OLD, notification_state=state)
    await tidy(store, NOW, KEEP)
    assert await _kept(store) == {stays}
    assert (await _counts(store))["deliveries"] == 1


async def test_a_round_has_a_limit_and_the_next_goes_on(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.stores.retention.ROWS", 2)
    await _told(store, OLD, people=9)
    assert await tidy(store, NOW, KEEP, most=4) == Tidied(made=0, dropped=0, notifications=0, rows=4)
    assert (await _counts(store))["deliveries"] == 5
    assert (await tidy(store, NOW, KEEP)).notifications == 1
    assert await _counts(store) == dict.fromkeys(("notifications", "deliveries", "skips", "attempts"), 0)


async def test_pages_follow_each_other(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.stores.retention.PAGE", 2)
    stays = await _told(store, OLD, state="pending")
    for day in range(5):
        await _told(store, OLD + timedelta(days=day))
    assert (await tidy(store, NOW, KEEP)).notifications == 5
    assert await _kept(store) == {stays}


async def _weeks(store: Store, table: str) -> list[Week]:
    async with store.read() as tx:
        return list(await partitions.weeks(of(tx), table))


async def test_the_weeks_that_come_are_made(weekly: SqlStore) -> None:
    later = NOW + timedelta(weeks=20)
    assert (await tidy(weekly, later, timedelta(0))).made == 3 * (WEEKS_AHEAD + 1)
    assert (await tidy(weekly, later, timedelta(0))).made == 0
    assert Week.of(later + timedelta(weeks=WEEKS_AHEAD)) in await _weeks(weekly, "attempts")


async def test_an_old_week_goes_at_once(weekly: SqlStore) -> None:
    await _told(weekly, OLD, people=5)
    done = await tidy(weekly, NOW, KEEP)
    # (no row by itself: the week it was in, and the empty ones made with it, in each of three tables)
    assert (done.dropped, done.notifications, done.rows) == (3 * (WEEKS_AHEAD + 1), 1, 0)
    assert await _counts(weekly) == dict.fromkeys(("notifications", "deliveries", "skips", "attempts"), 0)
    for table in partitions.KEYS:
        assert Week.of(OLD) not in await _weeks(weekly, table)


async def test_a_week_stays_until_all_of_it_is_old(weekly: SqlStore) -> None:
    week = Week.of(OLD)
    await _told(weekly, week.start)
    almost = week.next.start + KEEP - timedelta(seconds=1)
    assert (await tidy(weekly, almost, KEEP)).notifications == 0
    assert week in await _weeks(weekly, "deliveries")
    assert (await tidy(weekly, almost + timedelta(seconds=1), KEEP)).notifications == 1
    assert week not in await _weeks(weekly, "deliveries")


@pytest.mark.parametrize("state", ["pending", "sending"])
async def test_a_week_in_which_something_is_open_stays(weekly: SqlStore, state: str) -> None:
    stays = await _told(weekly, OLD, state=state)
    await _told(weekly, OLD)
    await tidy(weekly, NOW, KEEP)
    for table in partitions.KEYS:
        assert Week.of(OLD) in await _weeks(weekly, table)
    assert await _kept(weekly) == {stays}
    async with weekly.begin() as tx:
        await of(tx).execute(update(deliveries).values(state="delivered"))
    await tidy(weekly, NOW, KEEP)
    for table in partitions.KEYS:
        assert Week.of(OLD) not in await _weeks(weekly, table)


async def test_tries_of_a_later_week_stay_with_their_delivery(weekly: SqlStore) -> None:
    """A notification that is fanned out a week later has its deliveries in its own week, their tries in the next."""
    stays = await _told(weekly, OLD, state="pending")
    async with weekly.begin() as tx:
        late = an_id(OLD + timedelta(weeks=1))
        await of(tx).execute(update(attempts).values(delivery_id=late))
        await of(tx).execute(update(deliveries).values(id=late))
    await tidy(weekly, NOW, KEEP)
    assert await _kept(weekly) == {stays}
    assert (await _counts(weekly))["attempts"] == 1


async def test_a_table_in_use_is_left_for_the_next_round(weekly: SqlStore, postgres_url: str) -> None:
    await _told(weekly, OLD)
    other = await asyncpg.connect(postgres_url)
    async with other.transaction():
        await other.execute("SELECT count(*) FROM deliveries")
        await tidy(weekly, NOW, KEEP)
        assert Week.of(OLD) in await _weeks(weekly, "deliveries")
    await other.close()
    await tidy(weekly, NOW, KEEP)
    assert Week.of(OLD) not in await _weeks(weekly, "deliveries")


async def test_a_late_row_of_a_week_that_is_gone_is_kept_like_any_other(weekly: SqlStore) -> None:
    await tidy(weekly, NOW, KEEP)
    late = await _told(weekly, OLD)
    async with weekly.read() as tx:
        assert await of(tx).scalar(text("SELECT count(*) FROM deliveries_default")) == 1
    await tidy(weekly, NOW, KEEP)
    assert late not in await _kept(weekly)
    assert await _counts(weekly) == dict.fromkeys((table.name for table in LEDGER), 0)


def test_the_ledger_is_all_that_is_partitioned() -> None:
    declared = {
        name for name, table in metadata.tables.items() if table.dialect_options["postgresql"].get("partition_by")
    }
    assert declared == set(partitions.KEYS)
