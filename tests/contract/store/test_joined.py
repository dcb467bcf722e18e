"""The caller's own transaction: what Tidings writes in it lives and dies with what the caller writes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tidings.model.audience import users
from tidings.model.notification import Notification
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import a_notification


@pytest.fixture
async def callers(store: SqlStore, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """The host product's engine on the same file, with none of our settings."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'tidings.db'}")
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_connections_commit_and_rollback_decide(store: SqlStore, callers: AsyncEngine, commit: bool) -> None:
    written = a_notification(users("ana"))
    async with callers.connect() as connection:
        tx = await store.join(connection)
        await store.notifications.add(tx, written)
        before = tx.closed
        await (connection.commit() if commit else connection.rollback())
        assert (before, tx.closed) == (False, True)
    async with store.read() as tx:
        assert await store.notifications.get(tx, written.id) == (written if commit else None)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_sessions_commit_and_rollback_decide(store: SqlStore, callers: AsyncEngine, commit: bool) -> None:
    written = a_notification(users("ana"))
    async with AsyncSession(callers) as session:
        tx = await store.join(session)
        await store.notifications.add(tx, written)
        await (session.commit() if commit else session.rollback())
        assert tx.closed
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


async def test_a_foreign_transaction_is_no_transaction_of_this_store(store: SqlStore) -> None:
    class Foreign:
        closed = False

        def on_commit(self, call: Callable[[], Awaitable[None]]) -> None:
            raise AssertionError("nobody asks a stranger to call back")

    with pytest.raises(TypeError, match="Foreign"):
        await store.users.get(Foreign(), "ana")


async def _add_inside_a_savepoint(store: SqlStore, tx: Transaction, *notifications: Notification) -> None:
    async with store.savepoint(tx):
        for one in notifications:
            await store.notifications.add(tx, one)
