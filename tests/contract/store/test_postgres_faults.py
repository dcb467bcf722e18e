"""What a failing PostgreSQL means to callers: BackendError while it is away, Invalid for values, and it comes back."""

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

from tidings.errors import BackendError, Invalid, TidingsError
from tidings.model.user import User
from tidings.stores.connection import of
from tidings.stores.postgres import engines
from tidings.stores.sealing import Sealer
from tidings.stores.steady import ANSWER_WITHIN
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import NOW, a_notification
from tidings.testing.postgres import PostgresServer

POOL = 5
SEALER = Sealer("a secret for the tests")


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresServer]:
    """A server that these tests may stop."""
    with PostgresServer(settings=("fsync=off",)) as server:
        yield server


@pytest.fixture
async def fragile(own: PostgresServer) -> AsyncIterator[SqlStore]:
    """A store on that server. It has no tables: none are needed to lose a connection."""
    async with _opened(own.fresh()) as store:
        yield store


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(*engines(url, pool_size=POOL), SEALER, {})
    yield store
    await store.close()


async def _run(store: SqlStore, statement: str) -> object:
    async with store.begin() as tx:
        found = await of(tx).execute(text(statement))
        return found.scalar() if found.returns_rows else None


async def _all_at_once(store: SqlStore, statement: str = "SELECT pg_sleep(0.01)") -> list[object]:
    return await asyncio.gather(*(_run(store, statement) for _ in range(POOL)), return_exceptions=True)


async def test_after_a_restart_no_call_meets_a_dead_connection(own: PostgresServer, fragile: SqlStore) -> None:
    for mode in ("immediate", "fast"):
        await _all_at_once(fragile)
        await asyncio.to_thread(own.restart, mode)
        assert not [one for one in await _all_at_once(fragile) if isinstance(one, Exception)]


async def test_while_it_is_down_callers_are_told_to_come_back_and_then_it_works_by_itself(
    own: PostgresServer, fragile: SqlStore
) -> None:
    working = [asyncio.create_task(_run(fragile, "SELECT pg_sleep(30)")) for _ in range(POOL)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own.stop, "immediate")
    cut = await asyncio.gather(*working, return_exceptions=True)
    assert [type(one) for one in cut] == [BackendError] * POOL
    refused = await _all_at_once(fragile)
    assert [type(one) for one in refused] == [BackendError] * POOL
    assert all(isinstance(one, BackendError) and 0 < one.retry_after <= 10 for one in refused)
    with pytest.raises(BackendError, match="the database does not answer"):
        await fragile.ping()
    with pytest.raises(BackendError):
        await fragile.upgrade()
    await asyncio.to_thread(own.start)
    assert not [one for one in await _all_at_once(fragile) if isinstance(one, Exception)]


async def test_an_administrator_who_cuts_connections_under_load_costs_one_call_each(
    own: PostgresServer, fragile: SqlStore
) -> None:
    database = str(await _run(fragile, "SELECT current_database()"))
    working = [asyncio.create_task(_run(fragile, "SELECT pg_sleep(30)")) for _ in range(3)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own.terminate_backends, database)
    cut = await asyncio.gather(*working, return_exceptions=True)
    assert [type(one) for one in cut] == [BackendError] * 3
    assert not [one for one in await _all_at_once(fragile) if isinstance(one, Exception)]


async def test_a_connection_lost_inside_a_transaction_rolls_back_and_says_so(
    own: PostgresServer, fragile: SqlStore
) -> None:
    await _run(fragile, "CREATE TABLE kept (id int)")

    async def write() -> None:
        async with fragile.begin() as tx:
            await of(tx).execute(text("INSERT INTO kept VALUES (1)"))
            own.terminate_backends(str(await of(tx).scalar(text("SELECT current_database()"))))
            await of(tx).execute(text("INSERT INTO kept VALUES (2)"))

    with pytest.raises(BackendError):
        await write()
    assert await _run(fragile, "SELECT count(*) FROM kept") == 0


async def test_a_server_that_hangs_is_not_waited_for(own: PostgresServer) -> None:
    writer, reader = engines(own.fresh(), pool_size=POOL)
    store = SqlStore(writer.execution_options(**{ANSWER_WITHIN: 0.3}), reader, SEALER, {})
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


async def test_who_is_cancelled_while_the_server_hangs_ends_soon(
    own: PostgresServer, fragile: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.stores.steady.PATIENCE", 0.2)
    backend = int(str(await _run(fragile, "SELECT pg_backend_pid()")))
    os.kill(backend, signal.SIGSTOP)
    try:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await _run(fragile, "SELECT 1")
        assert time.monotonic() - before < 3
    finally:
        os.kill(backend, signal.SIGCONT)
    assert await _run(fragile, "SELECT 2") == 2


async def test_calls_that_are_cut_short_leave_every_connection_usable(own: PostgresServer, fragile: SqlStore) -> None:
    dice = random.Random(7)
    for _ in range(40):
        working = [asyncio.create_task(_run(fragile, "SELECT pg_sleep(0.002)")) for _ in range(POOL * 2)]
        await asyncio.sleep(dice.uniform(0, 0.006))
        for one in working:
            one.cancel()
        ended = await asyncio.gather(*working, return_exceptions=True)
        assert not [one for one in ended if isinstance(one, Exception)], "cancelled or done, nothing else"
    assert not [one for one in await _all_at_once(fragile) if isinstance(one, Exception)]
    stuck = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    assert await _run(fragile, stuck) == 0


async def test_a_standby_is_left_for_the_new_primary(own: PostgresServer, fragile: SqlStore) -> None:
    await _run(fragile, "CREATE TABLE kept (id int)")
    await _turn(own, "on")
    try:
        with pytest.raises(BackendError, match="read-only transaction"):
            await _run(fragile, "INSERT INTO kept VALUES (1)")
        with pytest.raises(BackendError, match="no host is a primary"):
            await _run(fragile, "INSERT INTO kept VALUES (1)")
    finally:
        await _turn(own, "off")
    await _run(fragile, "INSERT INTO kept VALUES (1)")


async def test_to_write_while_reading_is_a_bug_and_not_a_standby(fragile: SqlStore) -> None:
    with pytest.raises(Exception, match="read-only transaction") as caught:
        async with fragile.read() as tx:
            await of(tx).execute(text("CREATE TABLE oops (id int)"))
    assert not isinstance(caught.value, TidingsError)


async def test_a_reading_transaction_sees_one_snapshot(fragile: SqlStore) -> None:
    await _run(fragile, "CREATE TABLE kept (id int)")
    counted = text("SELECT count(*) FROM kept")
    async with fragile.read() as tx:
        before = await of(tx).scalar(counted)
        await _run(fragile, "INSERT INTO kept VALUES (1)")
        assert await of(tx).scalar(counted) == before
    async with fragile.begin() as tx:
        assert await of(tx).scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_a_statement_or_a_lock_that_takes_too_long_is_given_up(own: PostgresServer) -> None:
    async with _opened(f"{own.fresh()}?statement_timeout=100&lock_timeout=50") as store:
        with pytest.raises(BackendError, match="statement timeout"):
            await _run(store, "SELECT pg_sleep(5)")
        await _run(store, "CREATE TABLE kept (id int)")
        async with store.begin() as tx:
            await of(tx).execute(text("LOCK kept"))
            with pytest.raises(BackendError, match="lock timeout") as caught:
                await _run(store, "SELECT 1 FROM kept")
        assert caught.value.retry_after == 1


async def test_of_two_who_wait_for_each_other_one_is_told_to_try_again(own: PostgresServer) -> None:
    async with _opened(f"{own.fresh()}?deadlock_timeout=20ms") as store:
        await _run(store, "CREATE TABLE kept (id int)")
        await _run(store, "INSERT INTO kept VALUES (1), (2)")
        met = asyncio.Barrier(2)

        async def both(first: int, second: int) -> None:
            async with store.begin() as tx:
                await of(tx).execute(text(f"UPDATE kept SET id = id WHERE id = {first}"))
                await met.wait()
                await of(tx).execute(text(f"UPDATE kept SET id = id WHERE id = {second}"))

        ended = await asyncio.gather(both(1, 2), both(2, 1), return_exceptions=True)
    assert sorted(type(one).__name__ for one in ended) == ["BackendError", "NoneType"]


@pytest.mark.parametrize(
    ("change", "said"),
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
async def test_what_cannot_be_reached_is_told_in_words(own: PostgresServer, change: object, said: str) -> None:
    assert callable(change)
    async with _opened(change(own.fresh())) as store:
        with pytest.raises(BackendError, match=said):
            await store.ping()


async def test_too_many_connections_are_a_matter_of_waiting(own: PostgresServer) -> None:
    role = f"few_{uuid.uuid4().hex}"
    own.sql(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
    async with _opened(own.fresh().replace("postgres@", f"{role}@")) as store, store.begin() as tx:
        await of(tx).execute(text("SELECT 1"))
        with pytest.raises(BackendError, match="too many connections"):
            await store.ping()


async def test_values_that_the_database_cannot_keep_are_the_callers_fault(postgres_store: SqlStore) -> None:
    for person in (User("nul\0"), User("ana", city="\0"), User("ana", attributes={"a": "\0"}), User("half \ud800")):
        with pytest.raises(Invalid, match="a text contains"):
            async with postgres_store.begin() as tx:
                await postgres_store.users.upsert(tx, [person], NOW)
    with pytest.raises(Invalid, match="longer than its column"):
        async with postgres_store.begin() as tx:
            await postgres_store.users.upsert(tx, [User("a" * 201)], NOW)
    async with postgres_store.read() as tx:
        assert await postgres_store.users.page(tx, after=None, limit=9) == []


@pytest.mark.parametrize("wrong", ["nonsense", "", "0190a3c0", "{0190a3c0-8f00-7000-8000-000000000001}"])
async def test_what_is_no_id_matches_nothing(postgres_store: SqlStore, wrong: str) -> None:
    store, real = postgres_store, a_notification()
    async with store.begin() as tx:
        await store.notifications.add(tx, real)
        assert await store.notifications.get(tx, wrong) is None
        assert not await store.notifications.cancel(tx, wrong)
        assert await store.notifications.cancelled(tx, [wrong, real.id]) == set()
        assert await store.deliveries.trace(tx, wrong, user_id=None, after=None, limit=9) == []
        assert await store.deliveries.skips(tx, wrong, user_id=None, after=wrong, limit=9) == []
        assert not await store.api_keys.revoke(tx, wrong, NOW)


async def test_bugs_stay_what_they_are(postgres_store: SqlStore) -> None:
    one = a_notification()

    async def write() -> None:
        async with postgres_store.begin() as tx:
            await postgres_store.notifications.add(tx, one)

    with pytest.raises(ProgrammingError):
        await _run(postgres_store, "SELECT nothing FROM nowhere")
    await write()
    with pytest.raises(IntegrityError):
        await write()


async def _turn(own: PostgresServer, read_only: str) -> None:
    await asyncio.to_thread(own.sql, f"ALTER SYSTEM SET default_transaction_read_only = {read_only}")
    await asyncio.to_thread(own.sql, "SELECT pg_reload_conf()")
    shown = None
    while shown != read_only:
        shown = await asyncio.to_thread(own.sql, "SHOW default_transaction_read_only")
