"""Fixtures for all tests: a frozen clock, and a store on a fresh SQLite file."""

import asyncio
import gc
import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import fastapi._compat.v2 as fastapi_models
import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pydantic import TypeAdapter
from tests.support.run_again import run_failures_again
from tests.support.server import ONLY_CONFIGURED_CHANNELS

from tidings.packs import core, events, streams
from tidings.stores.engine import sqlite
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

# the contract suites are ordinary modules: without this, their failed asserts would show no values
pytest.register_assert_rewrite("tidings.testing.contracts")

# the speed of generating examples depends on the load of the machine only
hypothesis_settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("tests")

KINDS = {kind.name: kind for pack in (core.pack, events.pack, streams.pack) for kind in pack.audiences}
SECRET = "a secret for the tests"
_PRAGMAS = sqlite._PRAGMAS


TESTS = Path(__file__).parent
#: the longest tests start first, so that all workers of pytest-xdist end at about the same time
ORDER = ("chaos", "browser", "e2e", "adapters", "unit", "architecture")
#: folders whose tests share servers: the tests of a file run in one worker of pytest-xdist
SHARED = ("architecture/test_tiers.py", "browser", "chaos", "adapters/query_plans", "e2e")


# first: pytest-xdist reads the groups in the same hook
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests that share servers, and order the longest first."""
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith(SHARED):
            item.add_marker(pytest.mark.xdist_group(_group(path, item)))
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(TESTS).parts[0]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail if pytest-xdist ignored the groups: each process would then start the servers of every file.

    Exclude the modules and the collected tests from garbage collection, which otherwise takes a quarter of the time.
    """
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if getattr(session.config.option, "loadgroup", False) and any("@" not in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist did not group the tests that share servers; see pytest in pyproject.toml")
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


# last: the processes of pytest-xdist and their servers have ended
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Run failed tests again, alone, if several processes ran them."""
    if getattr(session.config.option, "numprocesses", None) and not hasattr(session.config, "workerinput"):
        run_failures_again(session)


def _group(path: str, item: pytest.Item) -> str:
    site = item.callspec.params.get("site") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    return path if site is None else f"{path.rpartition('/')[0]} on {site}"


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> Iterator[None]:
    """Log without `rich`, whose traceback with all local variables takes seconds, and without caching loggers."""
    configure = structlog.configure
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    configure(processors=[*structlog.get_config()["processors"][:-1], renderer])

    def configure_uncached(**options: Any) -> None:
        # a cached logger would keep the configuration of the test that used it first
        configure(**options | {"cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", configure_uncached)
        yield


@pytest.fixture(scope="session", autouse=True)
def _only_configured_channels() -> Iterator[None]:
    """Let applications in this process have the channels that a test configures."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONLY_CONFIGURED_CHANNELS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def _restored_logging(_plain_logs: None) -> Iterator[None]:
    """Undo what a command that runs in this process configures."""
    config, root = structlog.get_config(), logging.getLogger()
    level = root.level
    yield
    if structlog.get_config() != config:
        structlog.configure(**config)
        root.setLevel(level)
        for handler in root.handlers[:]:
            if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter):
                root.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def _fast_sqlite_commits() -> Iterator[None]:
    """Let SQLite in this process commit without waiting for the disk. Processes that tests start do wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "_PRAGMAS", (*_PRAGMAS, "PRAGMA synchronous=OFF"))
        yield


@pytest.fixture
def power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite in this process wait for the disk."""
    monkeypatch.setattr(sqlite, "_PRAGMAS", _PRAGMAS)


@pytest.fixture(scope="session", autouse=True)
def _shared_validators() -> Iterator[None]:
    """Share validators between FastAPI fields of the same type, so that creating an application is cheap."""
    validators: dict[object, TypeAdapter[Any]] = {}

    def adapter(annotated: Any, *, config: Any = None) -> TypeAdapter[Any]:
        kind, *metadata = get_args(annotated)
        key = (kind, repr(metadata), repr(config))
        if key not in validators:
            validators[key] = TypeAdapter(annotated, config=config)
        return validators[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastapi_models, "TypeAdapter", adapter)
        yield


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(scope="session")
def upgraded_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the newest schema, validators once: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "tidings.db"
    asyncio.run(_create_upgraded_database(path))
    return path


@pytest.fixture
async def store(upgraded_database: Path, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An upgraded store on `tmp_path / "tidings.db"`, with the audiences of the built-in packs."""
    shutil.copy(upgraded_database, tmp_path / "tidings.db")
    opened = SqlStore(*create_engines(tmp_path / "tidings.db"), FieldCipher(SECRET), KINDS)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that tests share. A test that stops or restarts a server starts its own."""
    with PostgresServer(settings=("fsync=off",)) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, dropped afterwards."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey server that tests share. A test that kills or stops a server starts its own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """The URL of an empty Valkey database."""
    valkey.flush()
    return valkey.url


async def _create_upgraded_database(path: Path) -> None:
    store = SqlStore(*create_engines(path), FieldCipher(SECRET), KINDS)
    await store.upgrade()
    await store.close()
