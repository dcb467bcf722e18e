"""A successful heartbeat write, not a read, ends an outage of the database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.server import eventually

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.observability.alerts import AlertRegistry
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.worker import heartbeat
from tidings.worker.heartbeat import send_heartbeats


async def test_a_written_heartbeat_ends_an_outage(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_EVERY", 3600.0)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_EVERY_WHEN_DOWN", 0.01)
    health, refused, begin = BackendHealth("database"), asyncio.Event(), store.transaction

    @asynccontextmanager
    async def read_only() -> AsyncIterator[Transaction]:
        async with begin() as tx:
            yield tx
            refused.set()
            raise BackendError("the database takes no writes", backend="database")

    async def is_up() -> bool:
        return health.is_available

    clock = FrozenClock()
    monkeypatch.setattr(store, "transaction", read_only)
    async with send_heartbeats(store, clock, "worker", dict, health, AlertRegistry(clock)):
        async with asyncio.timeout(10):
            await refused.wait()
        await store.ping()
        assert not health.is_available
        monkeypatch.setattr(store, "transaction", begin)
        await eventually(is_up, within=10)
