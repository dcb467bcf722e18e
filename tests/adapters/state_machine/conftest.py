"""Back ends of the state machines: one event loop and one set of connections for all runs."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from tests.adapters.state_machine.faulty_store import FaultyStore
from tests.adapters.state_machine.model_world import Backend

from tidings.flow.deliver import cancellation
from tidings.queues.bullmq_queue import BullMQQueue
from tidings.redis_client import RedisClient
from tidings.stores.engine import postgres, sqlite
from tidings.stores.engine.transaction import connection_of
from tidings.testing.clock import FrozenClock
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

#: tables that are emptied before each run
TABLES = (
    "waiting_steps",
    "awaited_events",
    "digest_items",
    "digests",
    "inbox_items",
    "inbox_counters",
    "user_schedules",
    "attempts",
    "deliveries",
    "skips",
    "outbox",
    "notifications",
    "user_limits",
    "preferences",
    "contact_points",
    "users",
    "idempotency_keys",
    "facts",
)


@pytest.fixture(autouse=True)
def _no_real_cancellation_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the real-time wait of the cancellation barrier; `World.cancel` advances the clock instead."""
    monkeypatch.setattr(cancellation, "BARRIER_TIMEOUT", 0.0)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop, and thus one set of connections, for all runs of a machine."""
    with asyncio.Runner() as event_loop_runner:
        yield event_loop_runner


@pytest.fixture
def on_sqlite(upgraded_database: Path, tmp_path: Path, runner: asyncio.Runner) -> Iterator[Backend]:
    """In-memory lanes, and SQLite without durability."""
    path = tmp_path / "tidings.db"
    shutil.copy(upgraded_database, path)

    def disable_sync(connection: Any, _entry: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()

    async def empty_database(store: FaultyStore) -> None:
        async with store.transaction() as tx:
            for table in TABLES:
                await connection_of(tx).execute(text(f"DELETE FROM {table}"))

    engines = sqlite.create_engines(path)
    for engine in engines:
        event.listen(engine.sync_engine, "connect", disable_sync)
    yield Backend(runner, engines, empty_database)
    for engine in engines:
        runner.run(engine.dispose())


@pytest.fixture
def on_servers(
    upgraded_postgres: PostgresServer, upgraded_url: str, valkey: ValkeyServer, runner: asyncio.Runner
) -> Iterator[Backend]:
    """PostgreSQL, and BullMQ on Valkey."""

    def create_queue(clock: FrozenClock) -> BullMQQueue:
        return BullMQQueue(RedisClient(valkey.url), "machine", clock)

    async def empty_database(store: FaultyStore) -> None:
        async with store.transaction() as tx:
            await connection_of(tx).execute(text(f"TRUNCATE {', '.join(TABLES)} CASCADE"))

    engines = postgres.create_engines(upgraded_url, pool_size=6)
    yield Backend(runner, engines, empty_database, create_queue, valkey.flush)
    runner.run(engines[0].dispose())
