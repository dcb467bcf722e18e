"""PostgreSQL failures as callers see them: BackendError during an outage, ValidationFailed for bad values."""

import asyncio
import os
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from tidings.errors import BackendError, TidingsError, ValidationFailed
from tidings.model.user import User
from tidings.stores.engine.cancel_safe_connection import RESPONSE_TIMEOUT_OPTION
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines
from tidings.stores.engine.transaction import connection_of
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import NOW, make_notification
from tidings.testing.postgres import PostgresServer

POOL = 5
CIPHER = FieldCipher("a secret for the tests")


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that these tests may stop."""
    with PostgresServer(settings=("fsync=off",)) as server:
        yield server


@pytest.fixture
async def store_on_own_server(own_server: PostgresServer) -> AsyncIterator[SqlStore]:
    """A store on `own_server`. It has no tables, as none are needed to lose a connection."""
    async with _open_store(own_server.create_database()) as store:
        yield store


@asynccontextmanager
async def _open_store(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(*create_engines(url, pool_size=POOL), CIPHER, {})
    yield store
    await store.close()


async def _run(store: SqlStore, statement: str) -> object:
    async with store.transaction() as tx:
        found = await connection_of(tx).execute(text(statement))
        return found.scalar() if found.returns_rows else None


async def _run_concurrently(store: SqlStore, statement: str = "SELECT pg_sleep(0.01)") -> list[object]:
    return await asyncio.gather(*(_run(store, statement) for _ in range(POOL)), return_exceptions=True)


async def test_after_a_restart_no_call_uses_a_dead_connection(
    own_server: PostgresServer, store_on_own_server: SqlStore
) -> None:
    for mode in ("immediate", "fast"):
        await _run_concurrently(store_on_own_server)
        await asyncio.to_thread(own_server.restart, mode)
        assert not [one for one in await _run_concurrently(store_on_own_server) if isinstance(one, Exception)]


async def test_calls_fail_with_backend_error_during_an_outage_and_then_recover(
    own_server: PostgresServer, store_on_own_server: SqlStore
) -> None:
    working = [asyncio.create_task(_run(store_on_own_server, "SELECT pg_sleep(30)")) for _ in range(POOL)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own_server.stop, "immediate")
    cut = await asyncio.gather(*working, return_exceptions=True)
    assert [type(one) for one in cut] == [BackendError] * POOL
    refused = await _run_concurrently(store_on_own_server)
    assert [type(one) for one in refused] == [BackendError] * POOL
    assert all(isinstance(one, BackendError) and 0 < one.retry_after <= 10 for one in refused)
    with pytest.raises(BackendError, match="the database does not answer"):
        await store_on_own_server.ping()
    with pytest.raises(BackendError):
        await store_on_own_server.upgrade()
    await asyncio.to_thread(own_server.start)
    assert not [one for one in await _run_concurrently(store_on_own_server) if isinstance(one, Exception)]


async def test_each_connection_terminated_under_load_fails_one_call(
    own_server: PostgresServer, store_on_own_server: SqlStore
) -> None:
    database = str(await _run(store_on_own_server, "SELECT current_database()"))
    working = [asyncio.create_task(_run(store_on_own_server, "SELECT pg_sleep(30)")) for _ in range(3)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own_server.terminate_backends, database)
    cut = await asyncio.gather(*working, return_exceptions=True)
    assert [type(one) for one in cut] == [BackendError] * 3
    assert not [one for one in await _run_concurrently(store_on_own_server) if isinstance(one, Exception)]


async def test_a_connection_lost_inside_a_transaction_rolls_back_and_raises(
    own_server: PostgresServer, store_on_own_server: SqlStore
) -> None:
    await _run(store_on_own_server, "CREATE TABLE kept (id int)")

    async def write() -> None:
        async with store_on_own_server.transaction() as tx:
            await connection_of(tx).execute(text("INSERT INTO kept VALUES (1)"))
            own_server.terminate_backends(str(await connection_of(tx).scalar(text("SELECT current_database()"))))
            await connection_of(tx).execute(text("INSERT INTO kept VALUES (2)"))

    with pytest.raises(BackendError):
        await write()
    assert await _run(store_on_own_server, "SELECT count(*) FROM kept") == 0


async def test_calls_do_not_wait_for_a_hanging_server(own_server: PostgresServer) -> None:
    writer, reader = create_engines(own_server.create_database(), pool_size=POOL)
    store = SqlStore(writer.execution_options(**{RESPONSE_TIMEOUT_OPTION: 0.3}), reader, CIPHER, {})
    backend = int(str(await _run(store, "SELECT pg_backend_pid()")))
    os.kill(backend, signal.SIGSTOP)
    try:
        before = time.monotonic()
        with pytest.raises(BackendError, match="the database does not answer"):
            await _run(store, "SELECT 1")
        assert time.monotonic() - before < 3
        assert await _run(store, "SELECT 2") == 2, "on another connection"
    finally:
        os.kill(backend, signal.SIGCONT)
    await store.close()


async def test_a_call_cancelled_while_the_server_hangs_ends_soon(
    own_server: PostgresServer, store_on_own_server: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.stores.engine.cancel_safe_connection.CANCEL_GRACE", 0.2)
    backend = int(str(await _run(store_on_own_server, "SELECT pg_backend_pid()")))
    os.kill(backend, signal.SIGSTOP)
    try:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await _run(store_on_own_server, "SELECT 1")
        assert time.monotonic() - before < 3
    finally:
        os.kill(backend, signal.SIGCONT)
    assert await _run(store_on_own_server, "SELECT 2") == 2


async def test_cancelled_calls_leave_every_connection_usable(
    own_server: PostgresServer, store_on_own_server: SqlStore
) -> None:
    random_source = random.Random(7)
    for _ in range(40):
        working = [asyncio.create_task(_run(store_on_own_server, "SELECT pg_sleep(0.002)")) for _ in range(POOL * 2)]
        await asyncio.sleep(random_source.uniform(0, 0.006))
        for one in working:
            one.cancel()
        ended = await asyncio.gather(*working, return_exceptions=True)
        assert not [one for one in ended if isinstance(one, Exception)], "each call must be cancelled or succeed"
    assert not [one for one in await _run_concurrently(store_on_own_server) if isinstance(one, Exception)]
    stuck = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    assert await _run(store_on_own_server, stuck) == 0


async def test_connections_to_a_standby_are_replaced_by_ones_to_the_new_primary(
    own_server: PostgresServer, store_on_own_server: SqlStore
) -> None:
    await _run(store_on_own_server, "CREATE TABLE kept (id int)")
    await _set_read_only(own_server, "on")
    try:
        with pytest.raises(BackendError, match="read-only transaction"):
            await _run(store_on_own_server, "INSERT INTO kept VALUES (1)")
        with pytest.raises(BackendError, match="no host is a primary"):
            await _run(store_on_own_server, "INSERT INTO kept VALUES (1)")
    finally:
        await _set_read_only(own_server, "off")
    await _run(store_on_own_server, "INSERT INTO kept VALUES (1)")


async def test_writing_in_a_read_only_transaction_is_a_bug_and_not_an_outage(store_on_own_server: SqlStore) -> None:
    with pytest.raises(Exception, match="read-only transaction") as caught:
        async with store_on_own_server.read_snapshot() as tx:
            await connection_of(tx).execute(text("CREATE TABLE oops (id int)"))
    assert not isinstance(caught.value, TidingsError)


async def test_a_read_transaction_sees_one_snapshot(store_on_own_server: SqlStore) -> None:
    await _run(store_on_own_server, "CREATE TABLE kept (id int)")
    counted = text("SELECT count(*) FROM kept")
    async with store_on_own_server.read_snapshot() as tx:
        before = await connection_of(tx).scalar(counted)
        await _run(store_on_own_server, "INSERT INTO kept VALUES (1)")
        assert await connection_of(tx).scalar(counted) == before
    async with store_on_own_server.transaction() as tx:
        assert await connection_of(tx).scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_a_statement_or_a_lock_wait_times_out(own_server: PostgresServer) -> None:
    async with _open_store(f"{own_server.create_database()}?statement_timeout=100&lock_timeout=50") as store:
        with pytest.raises(BackendError, match="statement timeout"):
            await _run(store, "SELECT pg_sleep(5)")
        await _run(store, "CREATE TABLE kept (id int)")
        async with store.transaction() as tx:
            await connection_of(tx).execute(text("LOCK kept"))
            with pytest.raises(BackendError, match="lock timeout") as caught:
                await _run(store, "SELECT 1 FROM kept")
        assert caught.value.retry_after == 1


async def test_a_deadlock_fails_one_transaction_with_a_conflict(own_server: PostgresServer) -> None:
    async with _open_store(f"{own_server.create_database()}?deadlock_timeout=20ms") as store:
        await _run(store, "CREATE TABLE kept (id int)")
        await _run(store, "INSERT INTO kept VALUES (1), (2)")
        met = asyncio.Barrier(2)

        async def both(first: int, second: int) -> None:
            async with store.transaction() as tx:
                await connection_of(tx).execute(text(f"UPDATE kept SET id = id WHERE id = {first}"))
                await met.wait()
                await connection_of(tx).execute(text(f"UPDATE kept SET id = id WHERE id = {second}"))

        ended = await asyncio.gather(both(1, 2), both(2, 1), return_exceptions=True)
    assert sorted(type(one).__name__ for one in ended) == ["NoneType", "TransactionConflict"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: f"{url}_is_not_there", "does not exist"),
        (lambda url: url.replace("postgres@", "nobody@"), "nobody"),
        (lambda url: url.replace("127.0.0.1", "no-such-host.invalid"), "name|Name"),
        (lambda _: "postgresql://postgres@127.0.0.1:1/none", "refused|Connect call failed"),
        (lambda url: f"{url}?sslmode=require", "SSL"),
        (lambda _: "postgresql:///none?host=/nowhere", "No such file|not find"),
    ],
    ids=["database", "user", "host", "port", "tls", "socket"],
)
async def test_a_connection_failure_has_a_readable_message(
    own_server: PostgresServer, change: object, message: str
) -> None:
    assert callable(change)
    async with _open_store(change(own_server.create_database())) as store:
        with pytest.raises(BackendError, match=message):
            await store.ping()


async def test_too_many_connections_are_a_backend_error(own_server: PostgresServer) -> None:
    role = f"few_{uuid.uuid4().hex}"
    own_server.run_sql(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
    async with (
        _open_store(own_server.create_database().replace("postgres@", f"{role}@")) as store,
        store.transaction() as tx,
    ):
        await connection_of(tx).execute(text("SELECT 1"))
        with pytest.raises(BackendError, match="too many connections"):
            await store.ping()


async def test_values_that_the_database_cannot_store_are_validation_errors(postgres_store: SqlStore) -> None:
    for user in (User("nul\0"), User("ana", city="\0"), User("ana", attributes={"a": "\0"}), User("half \ud800")):
        with pytest.raises(ValidationFailed, match="a text contains"):
            async with postgres_store.transaction() as tx:
                await postgres_store.users.upsert(tx, [user], NOW)
    with pytest.raises(ValidationFailed, match="longer than its column"):
        async with postgres_store.transaction() as tx:
            await postgres_store.users.upsert(tx, [User("a" * 201)], NOW)
    async with postgres_store.read_snapshot() as tx:
        assert await postgres_store.users.page(tx, after=None, limit=9) == []


@pytest.mark.parametrize("wrong", ["nonsense", "", "0190a3c0", "{0190a3c0-8f00-7000-8000-000000000001}"])
async def test_a_malformed_id_matches_no_row(postgres_store: SqlStore, wrong: str) -> None:
    store, real = postgres_store, make_notification()
    async with store.transaction() as tx:
        await store.notifications.add_many(tx, [real])
        assert await store.notifications.get(tx, wrong) is None
        assert not await store.notifications.cancel(tx, wrong)
        assert await store.notifications.find_stopped(tx, [wrong, real.id]) == {}
        assert await store.deliveries.list_with_attempts(tx, wrong, user_id=None, after=None, limit=9) == []
        assert await store.deliveries.list_skips(tx, wrong, user_id=None, after=wrong, limit=9) == []
        assert not await store.api_keys.revoke(tx, wrong, NOW)


async def test_programming_errors_are_not_mapped(postgres_store: SqlStore) -> None:
    one = make_notification()

    async def write() -> None:
        async with postgres_store.transaction() as tx:
            await postgres_store.notifications.add_many(tx, [one])

    with pytest.raises(ProgrammingError):
        await _run(postgres_store, "SELECT nothing FROM nowhere")
    await write()
    with pytest.raises(IntegrityError):
        await write()


async def _set_read_only(own_server: PostgresServer, read_only: str) -> None:
    await asyncio.to_thread(own_server.run_sql, f"ALTER SYSTEM SET default_transaction_read_only = {read_only}")
    await asyncio.to_thread(own_server.run_sql, "SELECT pg_reload_conf()")
    shown = None
    while shown != read_only:
        shown = await asyncio.to_thread(own_server.run_sql, "SHOW default_transaction_read_only")
