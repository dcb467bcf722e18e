"""Adopted transactions: Tidings' writes commit or roll back together with the caller's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tidings.client import Tidings
from tidings.config.settings import Settings
from tidings.errors import ValidationFailed
from tidings.model.audience import users
from tidings.model.notification import Notification
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import make_notification


@pytest.fixture
async def host_engine(store: SqlStore, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """The host product's engine on the same file, without Tidings' settings."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'tidings.db'}")
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_the_callers_connection_decides_on_commit_or_rollback(
    store: SqlStore, host_engine: AsyncEngine, commit: bool
) -> None:
    notification = make_notification(users("ana"))
    async with host_engine.connect() as connection:
        tx = await store.adopt(connection)
        await store.notifications.add_many(tx, [notification])
        before = tx.is_closed
        await (connection.commit() if commit else connection.rollback())
        assert (before, tx.is_closed) == (False, True)
    async with store.read_snapshot() as tx:
        assert await store.notifications.get(tx, notification.id) == (notification if commit else None)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_the_callers_session_decides_on_commit_or_rollback(
    store: SqlStore, host_engine: AsyncEngine, commit: bool
) -> None:
    notification = make_notification(users("ana"))
    async with AsyncSession(host_engine) as session:
        tx = await store.adopt(session)
        await store.notifications.add_many(tx, [notification])
        await (session.commit() if commit else session.rollback())
        assert tx.is_closed
    async with store.read_snapshot() as tx:
        assert await store.notifications.get(tx, notification.id) == (notification if commit else None)


async def test_an_adopted_transaction_may_contain_savepoints(store: SqlStore, host_engine: AsyncEngine) -> None:
    committed, rolled_back = make_notification(), make_notification()
    async with host_engine.begin() as connection:
        tx = await store.adopt(connection)
        await store.notifications.add_many(tx, [committed])
        with pytest.raises(IntegrityError):
            await _add_inside_a_savepoint(store, tx, rolled_back, committed)
    async with store.read_snapshot() as tx:
        assert [one.id for one in await store.notifications.list_page(tx, before=None, limit=9)] == [committed.id]


async def test_a_transaction_of_another_kind_is_rejected(store: SqlStore) -> None:
    class Foreign:
        is_closed = False

        def on_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
            raise AssertionError("nobody asks a stranger to call back")

    with pytest.raises(TypeError, match="Foreign"):
        await store.users.get(Foreign(), "ana")


def test_the_first_blocking_call_may_be_within_a_transaction_that_writes(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    message = {"title": "Hi", "body": "You"}
    migrating, client = Tidings(settings), Tidings(settings)
    with pytest.raises(ValidationFailed, match="no such user"):
        migrating.notify_sync("MESSAGE", to="ana", variables=message)
    migrating.close()
    engine = create_engine(f"sqlite:///{settings.sqlite_path}")
    insert = """INSERT INTO users (id, locale, timezone, attributes, created_at, updated_at)
                VALUES ('ana', 'en', 'UTC', '{}', '2026-11-22', '2026-11-22')"""
    with engine.begin() as connection:
        # holds the write lock from here on
        connection.execute(text(insert))
        accepted = client.notify_sync("MESSAGE", to="ana", variables=message, conn=connection)
    with engine.connect() as connection:
        assert list(connection.scalars(text("SELECT id FROM notifications"))) == [accepted]
    client.close()
    engine.dispose()


async def _add_inside_a_savepoint(store: SqlStore, tx: Transaction, *notifications: Notification) -> None:
    async with store.savepoint(tx):
        for one in notifications:
            await store.notifications.add_many(tx, [one])
