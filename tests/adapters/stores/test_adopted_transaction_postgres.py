"""Adopted transactions on PostgreSQL with each driver: asyncpg, psycopg and blocking psycopg."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tidings.errors import ValidationFailed
from tidings.model.audience import users
from tidings.model.delivery import PlannedDelivery, SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Transaction
from tidings.stores.engine.background_loop import LoopThread
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines
from tidings.stores.engine.transaction import adopt_sync, run_sync
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import NOW, make_notification


@pytest.fixture
def store(postgres_store: SqlStore) -> SqlStore:
    return postgres_store


@pytest.fixture(params=["asyncpg", "psycopg"])
async def host_engine(upgraded_url: str, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """The host product's engine on the same database, without Tidings' settings."""
    engine = create_async_engine(upgraded_url.replace("postgresql:", f"postgresql+{request.param}:"))
    yield engine
    await engine.dispose()


@pytest.fixture
def blocking_engine(upgraded_url: str) -> Iterator[Engine]:
    """The host product's blocking engine."""
    engine = create_engine(upgraded_url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


async def _accept(store: SqlStore, tx: Transaction, written: Notification) -> None:
    """Store a notification as accepting does, with one page of its fan-out."""
    await store.notifications.add_many(tx, [written])
    await store.outbox.add(tx, [Task(written.id, TaskKind.FAN_OUT, written.id, Lane.NORMAL, NOW)])
    await store.idempotency_keys.reserve(tx, caller="host", key=written.id, request_digest="d", now=NOW)
    await store.idempotency_keys.complete(tx, caller="host", key=written.id, status=202, body=b"{}")
    assert await store.notifications.get(tx, written.id) == written
    planned = PlannedDelivery(
        id=new_id(NOW),
        notification_id=written.id,
        user_id="ana",
        channel="webpush",
        target_id=new_id(NOW),
        lane=Lane.NORMAL,
        rule="everyone",
        batch_id=new_id(NOW),
        due_at=NOW + timedelta(hours=1),
    )
    skipped = SkipRecord(written.id, "ben", "webpush", SkipReason.NO_DEVICE)
    await store.deliveries.add(tx, [planned], [skipped], NOW)


async def _load_deliveries(store: SqlStore, notification_id: str) -> list[str]:
    async with store.read_snapshot() as tx:
        traces = await store.deliveries.list_with_attempts(tx, notification_id, user_id=None, after=None, limit=9)
    return [one.user_id for one in traces]


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_the_callers_connection_decides_on_commit_or_rollback(
    store: SqlStore, host_engine: AsyncEngine, commit: bool
) -> None:
    written = make_notification(users("ana"))
    async with host_engine.connect() as connection:
        tx = await store.adopt(connection)
        await _accept(store, tx, written)
        before = tx.is_closed
        await (connection.commit() if commit else connection.rollback())
        assert (before, tx.is_closed) == (False, True)
    async with store.read_snapshot() as tx:
        assert await store.notifications.get(tx, written.id) == (written if commit else None)
    assert await _load_deliveries(store, written.id) == (["ana"] if commit else [])


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_the_callers_session_decides_on_commit_or_rollback(
    store: SqlStore, host_engine: AsyncEngine, commit: bool
) -> None:
    written = make_notification(users("ana"))
    async with AsyncSession(host_engine) as session:
        await _accept(store, await store.adopt(session), written)
        await (session.commit() if commit else session.rollback())
    async with store.read_snapshot() as tx:
        assert await store.notifications.get(tx, written.id) == (written if commit else None)


async def test_an_adopted_transaction_may_contain_savepoints(store: SqlStore, host_engine: AsyncEngine) -> None:
    committed, rolled_back = make_notification(), make_notification()
    async with host_engine.begin() as connection:
        tx = await store.adopt(connection)
        await store.notifications.add_many(tx, [committed])
        with pytest.raises(IntegrityError):
            await _add_inside_a_savepoint(store, tx, rolled_back, committed)
    async with store.read_snapshot() as tx:
        assert [one.id for one in await store.notifications.list_page(tx, before=None, limit=9)] == [committed.id]


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_a_blocking_caller_decides_on_commit_or_rollback(
    store: SqlStore, blocking_engine: Engine, kind: str, commit: bool
) -> None:
    written = make_notification(users("ana"))

    def write() -> None:
        with Session(blocking_engine) if kind == "session" else blocking_engine.connect() as connection:
            run_sync(_accept(store, adopt_sync(connection), written))
            if commit:
                connection.commit()
            else:
                connection.rollback()

    await asyncio.to_thread(write)
    assert await _load_deliveries(store, written.id) == (["ana"] if commit else [])


def test_an_object_that_is_not_a_sqlalchemy_connection_is_rejected(blocking_engine: Engine) -> None:
    with blocking_engine.connect() as connection:
        assert isinstance(connection, Connection)
        with pytest.raises(ValidationFailed, match="conn: must be a SQLAlchemy Connection"):
            adopt_sync(connection.connection)


def test_a_program_without_an_event_loop_runs_calls_in_a_loop_thread(upgraded_url: str) -> None:
    store = SqlStore(*create_engines(upgraded_url, pool_size=2), FieldCipher("a secret for the tests"), {})
    written, loop_thread = make_notification(users("ana")), LoopThread()

    async def write() -> None:
        async with store.transaction() as tx:
            await _accept(store, tx, written)

    async def fail() -> None:
        async with store.transaction() as tx:
            await store.notifications.add_many(tx, [written])

    loop_thread.run(write())
    with pytest.raises(IntegrityError):
        loop_thread.run(fail())
    assert loop_thread.run(_load_deliveries(store, written.id)) == ["ana"]
    loop_thread.run(store.close())
    loop_thread.close()
    loop_thread.close()


async def _add_inside_a_savepoint(store: SqlStore, tx: Transaction, *notifications: Notification) -> None:
    async with store.savepoint(tx):
        for one in notifications:
            await store.notifications.add_many(tx, [one])
