"""Where the machines live: one event loop and one set of connections for all runs, and cancellations by the clock."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from tests.contract.machine.faulty import FaultyStore
from tests.contract.machine.world import Backend

from tidings.flow import cancellation
from tidings.queues.lanes import BullQueue
from tidings.redis_link import RedisLink
from tidings.stores import postgres, sqlite
from tidings.stores.connection import of
from tidings.testing.clock import FrozenClock
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

#: emptied before each run
TABLES = (
    "attempts",
    "deliveries",
    "skips",
    "outbox",
    "notifications",
    "user_limits",
    "preferences",
    "push_subscriptions",
    "users",
    "idempotency_keys",
    "facts",
)


@pytest.fixture(autouse=True)
def _cancellations_wait_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait in real time for a worker that does not hear; `World.cancel` moves the clock instead."""
    monkeypatch.setattr(cancellation, "PATIENCE", 0.0)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop, and so one set of connections, for all runs of a machine."""
    with asyncio.Runner() as one:
        yield one


@pytest.fixture
def on_sqlite(upgraded_database: Path, tmp_path: Path, runner: asyncio.Runner) -> Iterator[Backend]:
    """Lanes in memory over a database that need not survive a power cut."""
    path = tmp_path / "tidings.db"
    shutil.copy(upgraded_database, path)

    def unsafe(connection: Any, _entry: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()

    async def emptied(store: FaultyStore) -> None:
        async with store.begin() as tx:
            for table in TABLES:
                await of(tx).execute(text(f"DELETE FROM {table}"))

    engines = sqlite.engines(path)
    for engine in engines:
        event.listen(engine.sync_engine, "connect", unsafe)
    yield Backend(runner, engines, emptied)
    for engine in engines:
        runner.run(engine.dispose())


@pytest.fixture
def on_servers(
    upgraded_postgres: PostgresServer, upgraded_url: str, valkey: ValkeyServer, runner: asyncio.Runner
) -> Iterator[Backend]:
    """PostgreSQL and BullMQ on Valkey."""

    def queue(clock: FrozenClock) -> BullQueue:
        return BullQueue(RedisLink(valkey.url), "machine", clock)

    async def emptied(store: FaultyStore) -> None:
        async with store.begin() as tx:
            await of(tx).execute(text(f"TRUNCATE {', '.join(TABLES)} CASCADE"))

    engines = postgres.engines(upgraded_url, pool_size=6)
    yield Backend(runner, engines, emptied, queue, valkey.flush)
    runner.run(engines[0].dispose())
