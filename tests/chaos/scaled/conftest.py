"""Fixtures of scaled clusters: users in a PostgreSQL template, a Valkey per test, shared push services."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio
from tests.support.chaos_cluster import ChaosCluster
from tests.support.server import ADMIN_KEY, SECRET_KEY, USER_SECRET

from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.demo import devices
from tidings.mockpush import MockPushOptions, SpawnedMockPush, spawn
from tidings.model.user import User
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

#: a folder for PYTHONPATH that injects faults inside a process; see its `sitecustomize.py`
HOOKS = Path(__file__).parent / "hooks"
#: duplicates allowed per killed worker: sends in flight, and outcomes not yet recorded
IN_FLIGHT, UNFLUSHED = 50, 50
#: small pages and batches, so that a fault hits both planning and sending
SMALL_BATCH_SETTINGS = {
    "TIDINGS_PAGE_SIZE": "50",
    "TIDINGS_BATCH_SIZE": "25",
    "TIDINGS_WORKER_CONCURRENCY": str(IN_FLIGHT),
    "TIDINGS_FLUSH_ROWS": str(UNFLUSHED),
    "TIDINGS_DATABASE_POOL": "8",
    "TIDINGS_USER_LIMIT": "0",
}


class ClusterFactory(Protocol):
    """Creates a cluster whose users `u00000…` have one device each, spread over the first `hosts` push services."""

    async def __call__(self, user_count: int, *, hosts: int = 1, on: PostgresServer | None = None) -> ChaosCluster: ...


TemplateDatabaseFactory = Callable[[PostgresServer, int, int], Awaitable[str]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def push_services() -> AsyncIterator[Sequence[SpawnedMockPush]]:
    async with AsyncExitStack() as stack:
        options = MockPushOptions(verify_share=0.02, keep=20_000)
        yield [await stack.enter_async_context(spawn(options)) for _ in range(2)]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def get_template_database(
    push_services: Sequence[SpawnedMockPush], tmp_path_factory: pytest.TempPathFactory
) -> TemplateDatabaseFactory:
    """Return a function that returns the name of a template database with users, created on first use."""
    created: dict[tuple[int, int, int], str] = {}

    async def template(postgres: PostgresServer, user_count: int, hosts: int) -> str:
        key = (postgres.port, user_count, hosts)
        if key not in created:
            url = postgres.create_database()
            await _populate(url, tmp_path_factory.mktemp("crowd"), push_services[:hosts], user_count)
            created[key] = url.rpartition("/")[2]
        return created[key]

    return template


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey server that the test may kill, pause and flush."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def create_cluster(
    postgres: PostgresServer,
    own_valkey: ValkeyServer,
    get_template_database: TemplateDatabaseFactory,
    push_services: Sequence[SpawnedMockPush],
    tmp_path: Path,
) -> ClusterFactory:
    """Return a cluster factory. `on` is a PostgreSQL server that the test disrupts; the default is the shared one."""

    async def create(user_count: int, *, hosts: int = 1, on: PostgresServer | None = None) -> ChaosCluster:
        server = on or postgres
        template = await get_template_database(server, user_count, hosts)
        name = f"{template}_{tmp_path.name}".lower().replace("-", "_")[:60]
        server.run_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        server.run_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        for push in push_services:
            await push.control.reset()
        url = server.url(name)
        settings = {
            "TIDINGS_DATABASE": url,
            "TIDINGS_REDIS": own_valkey.url,
            "TIDINGS_PUSH_EXTRA_HOSTS": ",".join(push.origin.removeprefix("http://") for push in push_services),
            "TIDINGS_LOG_FORMAT": "json",
            **SMALL_BATCH_SETTINGS,
        }
        names = [_user_id(number) for number in range(user_count)]
        return ChaosCluster(server, url, own_valkey, push_services[:hosts], names, tmp_path / "data", settings)

    return create


@pytest.fixture
def short_leases(fault_hooks: dict[str, str]) -> dict[str, str]:
    """Variables of a process whose leases, job locks and sweeps take a fifteenth of their usual time."""
    return {**fault_hooks, "CHAOS_FASTER": "15"}


@pytest.fixture
def fault_hooks() -> dict[str, str]:
    """Variables of a process in which faults can be injected."""
    return {"PYTHONPATH": os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])}


def _user_id(number: int) -> str:
    return f"u{number:05}"


async def _populate(database: str, data_dir: Path, push_services: Sequence[SpawnedMockPush], user_count: int) -> None:
    settings = Settings(
        data_dir=data_dir,
        database=database,
        bootstrap_key=ADMIN_KEY,
        user_secret=USER_SECRET,
        secret_key=SECRET_KEY,
    )
    now, names = datetime.now(UTC), [_user_id(number) for number in range(user_count)]
    async with AppContainer.open(settings) as container, container.store.transaction() as tx:
        await container.store.users.upsert(tx, [User(name) for name in names], now)
        for index, push in enumerate(push_services):
            simulated = [devices.DemoDevice(name, name, "Phone") for name in names[index :: len(push_services)]]
            await devices.subscribe_devices(container, tx, simulated, origin=push.origin, now=now)
