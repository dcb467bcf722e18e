"""The library client on PostgreSQL: async and blocking, in its own and in the caller's transaction."""

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tidings import Tidings
from tidings.config.settings import Settings
from tidings.errors import ConfigError, NotFound
from tidings.model.user import User
from tidings.ports.clock import SystemClock

WORDS = {"title": "Hello", "body": "There"}


@pytest.fixture
def settings(tmp_path: Path, postgres_url: str) -> Settings:
    return Settings(data_dir=tmp_path, database=postgres_url, database_pool=3)


@pytest.fixture
async def tidings(settings: Settings) -> AsyncIterator[Tidings]:
    async with Tidings(settings) as client:
        runtime = client._runtime
        assert runtime is not None
        async with runtime.store.transaction() as tx:
            await runtime.store.users.upsert(tx, [User("ana")], SystemClock().now())
        yield client


async def is_stored(tidings: Tidings, notification_id: str) -> bool:
    assert tidings._runtime is not None
    store = tidings._runtime.store
    async with store.read_snapshot() as tx:
        return await store.notifications.get(tx, notification_id) is not None


async def test_notify_accepts(tidings: Tidings) -> None:
    handle = await tidings.notify("MESSAGE", to="ana", variables=WORDS)
    assert (await handle.trace()).notification.id == handle.id


@pytest.mark.parametrize("commits", [True, False])
async def test_the_callers_transaction_decides_on_commit(tidings: Tidings, postgres_url: str, commits: bool) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        handle = await tidings.notify("MESSAGE", to="ana", variables=WORDS, conn=connection)
        await (connection.commit() if commits else connection.rollback())
    await engine.dispose()
    if commits:
        assert await handle.trace()
    else:
        with pytest.raises(NotFound):
            await handle.trace()


async def test_blocking_callers_may_use_any_thread(tidings: Tidings) -> None:
    handles: list[str] = []

    def work() -> None:
        handles.append(tidings.notify_sync("MESSAGE", to="ana", variables=WORDS))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(handles)) == 4
    assert all([await is_stored(tidings, one) for one in handles])
    tidings.close()
    # the next call after closing reopens the client
    assert await is_stored(tidings, tidings.notify_sync("MESSAGE", to="ana", variables=WORDS))


@pytest.mark.parametrize("commits", [True, False])
async def test_a_blocking_callers_transaction_decides_on_commit(
    tidings: Tidings, postgres_url: str, commits: bool
) -> None:
    engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        handles = tidings.notify_sync("MESSAGE", to="ana", variables=WORDS, conn=connection)
        connection.commit() if commits else connection.rollback()
    engine.dispose()
    assert await is_stored(tidings, handles) is commits


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_client_opened_before_a_fork_is_reopened_in_the_child(tidings: Tidings) -> None:
    tidings.notify_sync("MESSAGE", to="ana", variables=WORDS)
    assert tidings._sync_backend is not None
    before = tidings._sync_backend
    before.pid = -1  # simulates a forked child
    assert tidings.notify_sync("MESSAGE", to="ana", variables=WORDS)
    assert tidings._sync_backend is not before
    before.close()


async def test_an_outdated_schema_is_rejected_when_migration_is_disabled(settings: Settings) -> None:
    closed = Tidings(settings.model_copy(update={"migrate": False}))
    with pytest.raises(ConfigError, match="tidings db upgrade"):
        closed.notify_sync("MESSAGE", to="ana", variables=WORDS)
    with pytest.raises(ConfigError, match="tidings db upgrade"):
        await closed.__aenter__()
