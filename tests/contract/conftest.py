"""A store on PostgreSQL, for what runs over both dialects."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from tidings.packs import core, events
from tidings.stores.postgres import engines
from tidings.stores.sealing import Sealer
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer

KINDS = {kind.name: kind for pack in (core.pack, events.pack) for kind in pack.audiences}
SECRET = "a secret for the tests"
TEMPLATE = "upgraded"


@pytest.fixture(scope="session")
def upgraded_postgres(postgres: PostgresServer) -> PostgresServer:
    """A server with an empty database of the newest schema, made once, that others are copied from."""
    postgres.sql(f"CREATE DATABASE {TEMPLATE}")
    asyncio.run(_upgraded(postgres.url(TEMPLATE)))
    return postgres


@pytest.fixture
def upgraded_url(upgraded_postgres: PostgresServer) -> Iterator[str]:
    """A database with the newest schema, dropped afterwards."""
    name = f"t{uuid.uuid4().hex}"
    upgraded_postgres.sql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    url = upgraded_postgres.url(name)
    yield url
    upgraded_postgres.drop(url)


@pytest.fixture
async def postgres_store(upgraded_url: str) -> AsyncIterator[SqlStore]:
    """An upgraded store on PostgreSQL, with the audiences of the built-in packs."""
    opened = SqlStore(*engines(upgraded_url, pool_size=5), Sealer(SECRET), KINDS)
    yield opened
    await opened.close()


async def _upgraded(url: str) -> None:
    store = SqlStore(*engines(url, pool_size=1), Sealer(SECRET), KINDS)
    await store.upgrade()
    await store.close()
