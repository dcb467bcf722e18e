"""The host product's own transaction on PostgreSQL, whatever driver it uses: asyncpg, psycopg, psycopg blocking."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tidings.errors import Invalid
from tidings.model.audience import users
from tidings.model.delivery import Planned, Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Transaction
from tidings.stores.apart import Apart
from tidings.stores.connection import at_once, borrowed_blocking
from tidings.stores.postgres import engines
from tidings.stores.sealing import Sealer
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import NOW, a_notification


@pytest.fixture
def store(postgres_store: SqlStore) -> SqlStore:
    return postgres_store


@pytest.fixture(params=["asyncpg", "psycopg"])
async def callers(upgraded_url: str, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """The host product's engine on the same database, with none of our settings."""
    engine = create_async_engine(upgraded_url.replace("postgresql:", f"postgresql+{request.param}:"))
    yield engine
    await engine.dispose()


@pytest.fixture
def blocking(upgraded_url: str) -> Iterator[Engine]:
    """The host product's blocking engine."""
    engine = create_engine(upgraded_url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


async def _accepted(store: SqlStore, tx: Transaction, written: Notification) -> None:
    """Write what accepting writes, and a page of its fan-out."""
    await store.notifications.add(tx, written)
    await store.outbox.add(tx, [Task(written.id, TaskKind.FAN_OUT, written.id, Lane.NORMAL, NOW)])
    await store.idempotency.reserve(tx, caller="host", key=written.id, request_digest="d", now=NOW)
    await store.idempotency.answer(tx, caller="host", key=written.id, status=202, body=b"{}")
    assert await store.notifications.get(tx, written.id) == written
    planned = Planned(
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
    skipped = Skipped(written.id, "ben", "webpush", SkipReason.NO_DEVICE)
    await store.deliveries.add(tx, [planned], [skipped], NOW)


async def _deliveries(store: SqlStore, notification_id: str) -> list[str]:
    async with store.read() as tx:
        traces = await store.deliveries.trace(tx, notification_id, user_id=None, after=None, limit=9)
    return [one.user_id for one in traces]


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_connections_commit_and_rollback_decide(store: SqlStore, callers: AsyncEngine, commit: bool) -> None:
    written = a_notification(users("ana"))
    async with callers.connect() as connection:
        tx = await store.join(connection)
        await _accepted(store, tx, written)
        before = tx.closed
        await (connection.commit() if commit else connection.rollback())
        assert (before, tx.closed) == (False, True)
    async with store.read() as tx:
        assert await store.notifications.get(tx, written.id) == (written if commit else None)
    assert await _deliveries(store, written.id) == (["ana"] if commit else [])


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_sessions_commit_and_rollback_decide(store: SqlStore, callers: AsyncEngine, commit: bool) -> None:
    written = a_notification(users("ana"))
    async with AsyncSession(callers) as session:
        await _accepted(store, await store.join(session), written)
        await (session.commit() if commit else session.rollback())
    async with store.read() as tx:
        assert await store.notifications.get(tx, written.id) == (written if commit else None)


async def test_a_joined_transaction_may_hold_savepoints(store: SqlStore, callers: AsyncEngine) -> None:
    kept, undone = a_notification(), a_notification()
    async with callers.begin() as connection:
        tx = await store.join(connection)
        await store.notifications.add(tx, kept)
        with pytest.raises(IntegrityError):
            await _add_inside_a_savepoint(store, tx, undone, kept)
    async with store.read() as tx:
        assert [one.id for one in await store.notifications.recent(tx, before=None, limit=9)] == [kept.id]


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_a_blocking_callers_commit_and_rollback_decide(
    store: SqlStore, blocking: Engine, kind: str, commit: bool
) -> None:
    written = a_notification(users("ana"))

    def write() -> None:
        with Session(blocking) if kind == "session" else blocking.connect() as connection:
            at_once(_accepted(store, borrowed_blocking(connection), written))
            if commit:
                connection.commit()
            else:
                connection.rollback()

    await asyncio.to_thread(write)
    assert await _deliveries(store, written.id) == (["ana"] if commit else [])


def test_what_is_no_connection_of_sqlalchemy_is_refused(blocking: Engine) -> None:
    with blocking.connect() as connection:
        assert isinstance(connection, Connection)
        with pytest.raises(Invalid, match="conn: must be a SQLAlchemy Connection"):
            borrowed_blocking(connection.connection)


def test_a_program_without_an_event_loop_waits_in_a_thread_apart(upgraded_url: str) -> None:
    store = SqlStore(*engines(upgraded_url, pool_size=2), Sealer("a secret for the tests"), {})
    written, apart = a_notification(users("ana")), Apart()

    async def write() -> None:
        async with store.begin() as tx:
            await _accepted(store, tx, written)

    async def fail() -> None:
        async with store.begin() as tx:
            await store.notifications.add(tx, written)

    apart.run(write())
    with pytest.raises(IntegrityError):
        apart.run(fail())
    assert apart.run(_deliveries(store, written.id)) == ["ana"]
    apart.run(store.close())
    apart.close()
    apart.close()


async def _add_inside_a_savepoint(store: SqlStore, tx: Transaction, *notifications: Notification) -> None:
    async with store.savepoint(tx):
        for one in notifications:
            await store.notifications.add(tx, one)
