"""A process that is suspended within a transaction (SIGSTOP) does not keep its locks from the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from tests.adapters.conftest import KINDS, SECRET

from tidings.flow.deliver.cancellation import CancellationCoordinator
from tidings.flow.tasks import fan_out_task
from tidings.model.notification import Notification, NotificationState
from tidings.ports.store import IdempotentRequest
from tidings.stores.engine import schema_lock
from tidings.stores.engine.cancel_safe_connection import raw_connection
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import TRANSACTION_TIMEOUT, ConnectionParameters, create_engines
from tidings.stores.repositories.delivery_claims import CANCELLATION_LOCK_ID
from tidings.stores.schema import migrate
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import NOW, make_notification

#: seconds in which a cancellation is confirmed, well below the promised six
CANCELLED_WITHIN = 4.0
#: what a process may have done when it is suspended, in the middle of …
CLAIM = f"SELECT pg_advisory_xact_lock_shared({CANCELLATION_LOCK_ID})"
FAN_OUT = "UPDATE notifications SET cursor = 'u1'"
RELAY = "DELETE FROM outbox"
RESERVATION = "INSERT INTO idempotency_keys VALUES ('shop', 'order-1', 'digest', NULL, '', now())"


@asynccontextmanager
async def suspend_after(url: str, statement: str, *, inside_statement: bool = False) -> AsyncIterator[Any]:
    """Hold a session as the server sees it when its process is suspended after a statement of a transaction.

    inside_statement: the process has sent the next statement to be parsed, as asyncpg does at its first use, and not
    yet to be executed. The session is then `active`, not `idle in transaction`. Yields the connection.
    """
    connection: Any = await ConnectionParameters.parse(url).connect()
    await connection.execute("BEGIN")
    await connection.execute(statement)
    if inside_statement:
        await connection.prepare("SELECT 1")
    yield connection
    connection.terminate()


async def wait_until_closed(connection: Any) -> None:
    async with asyncio.timeout(5):
        while not connection.is_closed():
            await asyncio.sleep(0.01)


async def add_notification(store: SqlStore) -> Notification:
    notification = make_notification()
    async with store.transaction() as tx:
        await store.notifications.add_many(tx, [notification])
        await store.outbox.add(tx, [fan_out_task(notification, NOW)])
    return notification


@pytest.mark.parametrize(
    ("statement", "inside_statement"),
    [(CLAIM, False), (CLAIM, True), (FAN_OUT, False), (RELAY, True)],
    ids=["claim", "claim, inside a statement", "fan-out", "relay, inside a statement"],
)
async def test_a_cancellation_does_not_wait_for_a_suspended_process(
    postgres_store: SqlStore, upgraded_url: str, statement: str, inside_statement: bool
) -> None:
    store, notification = postgres_store, await add_notification(postgres_store)
    async with suspend_after(upgraded_url, statement, inside_statement=inside_statement) as suspended:
        async with asyncio.timeout(CANCELLED_WITHIN):
            coordinator = CancellationCoordinator(store, is_exclusive=False)
            await coordinator.cancel(notification.id, has_local_consumer=False)
        await wait_until_closed(suspended)
    async with store.read_snapshot() as tx:
        stored = await store.notifications.get(tx, notification.id)
    assert stored is not None
    assert stored.state is NotificationState.CANCELLED


async def test_a_claim_at_work_is_not_ended_by_a_cancellation(postgres_store: SqlStore, upgraded_url: str) -> None:
    notification = await add_notification(postgres_store)
    connection: Any = await ConnectionParameters.parse(upgraded_url).connect()
    await connection.execute("BEGIN")
    await connection.execute(CLAIM)
    working = asyncio.create_task(connection.execute("SELECT pg_sleep(1)"))
    coordinator = CancellationCoordinator(postgres_store, is_exclusive=False)
    cancelling = asyncio.create_task(coordinator.cancel(notification.id, has_local_consumer=False))
    await working
    await connection.execute("COMMIT")
    async with asyncio.timeout(CANCELLED_WITHIN):
        await cancelling
    await connection.close()


@pytest.mark.parametrize("inside_statement", [False, True], ids=["between statements", "inside a statement"])
async def test_an_idempotency_key_of_a_suspended_process_becomes_free(
    postgres_store: SqlStore, upgraded_url: str, inside_statement: bool
) -> None:
    store = postgres_store
    async with suspend_after(upgraded_url, RESERVATION, inside_statement=inside_statement) as suspended:
        assert await store.terminate_stalled_sessions() == 0, "not silent for long enough"
        with capture_logs() as logs:
            assert await store.terminate_stalled_sessions(0.0) == 1
        await wait_until_closed(suspended)
        async with asyncio.timeout(5), store.transaction() as tx:
            requests = [IdempotentRequest("shop", "order-1", "digest")]
            assert await store.idempotency_keys.reserve_many(tx, requests, NOW) == [None]
    assert [entry["event"] for entry in logs] == ["stalled_sessions_terminated"]


async def test_only_silent_sessions_of_tidings_that_hold_locks_are_ended(
    postgres_store: SqlStore, upgraded_url: str
) -> None:
    reading = suspend_after(upgraded_url, "SELECT 1")
    foreign = suspend_after(f"{upgraded_url}?application_name=shop", RELAY)
    async with reading as reader, foreign as other:
        working: Any = await ConnectionParameters.parse(upgraded_url).connect()
        await working.execute("BEGIN")
        await working.execute(CLAIM)
        task = asyncio.create_task(working.execute("SELECT pg_sleep(0.3)"))
        await asyncio.sleep(0.05)
        assert await postgres_store.terminate_stalled_sessions(0.0) == 0
        await task
        assert [connection.is_closed() for connection in (reader, other, working)] == [False] * 3
        working.terminate()


async def test_a_transaction_is_limited_where_the_server_can_do_so(upgraded_url: str) -> None:
    connection: Any = await ConnectionParameters.parse(upgraded_url).connect()
    has_limit = connection.get_server_version().major >= 17
    setting = "SELECT current_setting('transaction_timeout', true)"
    assert await connection.fetchval(setting) == (TRANSACTION_TIMEOUT if has_limit else None)
    await connection.close()


async def test_a_suspended_schema_change_lets_the_next_one_run(
    upgraded_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_lock, "STALLED_AFTER", 0.0)
    lock = f"SELECT pg_advisory_lock({schema_lock.SCHEMA_LOCK_ID})"
    async with (
        suspend_after(upgraded_url, lock, inside_statement=True) as suspended,
        open_store(upgraded_url) as store,
        raw_connection(store._writer) as connection,
    ):
        await connection.run_sync(lambda sync: migrate.downgrade(sync, "head", lock_timeout=5))
        await wait_until_closed(suspended)


async def test_the_schema_lock_is_not_kept_between_transactions(upgraded_url: str) -> None:
    def read_timeout(connection: Any) -> tuple[str, str]:
        with schema_lock.schema_lock(connection, timeout=5), connection.begin():
            during = connection.scalar(text("SHOW idle_session_timeout"))
        with connection.begin():
            return during, connection.scalar(text("SHOW idle_session_timeout"))

    async with open_store(upgraded_url) as store, raw_connection(store._writer) as connection:
        assert await connection.run_sync(read_timeout) == ("30s", "0")


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(*create_engines(url, pool_size=2), FieldCipher(SECRET), KINDS)
    yield store
    await store.close()
