"""PostgreSQL stores for tests that run over both dialects."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest

from tidings.packs import core, events, streams
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer

KINDS = {kind.name: kind for pack in (core.pack, events.pack, streams.pack) for kind in pack.audiences}
SECRET = "a secret for the tests"
TEMPLATE, SHARED = "upgraded", "shared"
#: lists the tables of a database without their partitions
TABLES = """SELECT relname FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
    WHERE nspname = 'public' AND relkind IN ('r', 'p') AND NOT relispartition"""


@pytest.fixture(scope="session")
def upgraded_postgres(postgres: PostgresServer) -> PostgresServer:
    """A server with an empty database of the newest schema, created once as the template for copies."""
    postgres.run_sql(f"CREATE DATABASE {TEMPLATE}")
    asyncio.run(_create_schema(postgres.url(TEMPLATE)))
    return postgres


@pytest.fixture(scope="session")
def empty_database(upgraded_postgres: PostgresServer) -> Iterator[Callable[[], str]]:
    """Return a function that empties the database shared by this process's tests and returns its URL.

    Emptying is much faster than creating a new database.
    """
    upgraded_postgres.run_sql(f"CREATE DATABASE {SHARED} TEMPLATE {TEMPLATE}")
    url = upgraded_postgres.url(SHARED)
    with psycopg.connect(url, autocommit=True) as connection:
        tables = [name for (name,) in connection.execute(TABLES)]
        seeded_tables = [name for name in tables if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]
        # the replica role disables foreign key checks, so tables can be emptied in any order
        connection.execute("SET session_replication_role = replica; SET lock_timeout = '30s'")
        delete = "".join(f'DELETE FROM "{name}";' for name in tables if name not in seeded_tables).encode()

        def empty() -> str:
            connection.execute(delete)
            return url

        yield empty


@pytest.fixture
def upgraded_url(empty_database: Callable[[], str]) -> str:
    """An empty database with the newest schema.

    Its planner statistics and options may remain from an earlier test.
    """
    return empty_database()


@pytest.fixture
def fresh_upgraded_url(upgraded_postgres: PostgresServer) -> Iterator[str]:
    """A new database with the newest schema, dropped afterwards."""
    name = f"t{uuid.uuid4().hex}"
    upgraded_postgres.run_sql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    url = upgraded_postgres.url(name)
    yield url
    upgraded_postgres.drop_database(url)


@pytest.fixture
async def postgres_store(upgraded_url: str) -> AsyncIterator[SqlStore]:
    """An upgraded store on PostgreSQL, with the audiences of the built-in packs."""
    store = SqlStore(*create_engines(upgraded_url, pool_size=5), FieldCipher(SECRET), KINDS)
    yield store
    await store.close()


async def _create_schema(url: str) -> None:
    store = SqlStore(*create_engines(url, pool_size=1), FieldCipher(SECRET), KINDS)
    await store.upgrade()
    await store.close()
