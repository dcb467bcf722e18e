"""What every test may ask for: a frozen clock, and a store on a fresh SQLite file."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tidings.packs import core, events
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

# the suites for adapters are ordinary modules: without this their asserts would say nothing when they fail
pytest.register_assert_rewrite("tidings.testing.contracts")

KINDS = {kind.name: kind for pack in (core.pack, events.pack) for kind in pack.audiences}
SECRET = "a secret for the tests"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(scope="session")
def upgraded_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the newest schema, made once: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "tidings.db"
    asyncio.run(_upgraded(path))
    return path


@pytest.fixture
async def store(upgraded_database: Path, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An upgraded store on `tmp_path / "tidings.db"`, with the audiences of the built-in packs."""
    shutil.copy(upgraded_database, tmp_path / "tidings.db")
    opened = SqlStore(*engines(tmp_path / "tidings.db"), Sealer(SECRET), KINDS)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests that only need databases; who stops or restarts it starts one of its own."""
    with PostgresServer(settings=("fsync=off",)) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database, dropped afterwards."""
    url = postgres.fresh()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey for all tests that only need keys; who kills or stops it starts one of its own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """An empty Redis."""
    valkey.flush()
    return valkey.url


async def _upgraded(path: Path) -> None:
    store = SqlStore(*engines(path), Sealer(SECRET), KINDS)
    await store.upgrade()
    await store.close()
