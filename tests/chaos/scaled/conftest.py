"""Scaled set-ups to harm: people in a PostgreSQL template, a Valkey for each test, push services for all of them."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from tidings.demo import devices
from tidings.model.user import User
from tidings.runtime import Runtime
from tidings.settings import Settings
from tidings.testing.mock_push import MockPushOptions, SpawnedMockPush, spawn
from tidings.testing.postgres import PostgresServer
from tidings.testing.scene import Scene
from tidings.testing.server import ADMIN_KEY, SECRET_KEY, USER_SECRET
from tidings.testing.valkey import ValkeyServer

#: harm done from inside a process; see the file in it
HOOKS = Path(__file__).parent / "hooks"
#: what a killed worker may send twice: sends in flight, and outcomes not yet written
IN_FLIGHT, UNFLUSHED = 50, 50
#: small pages and batches, so that a blow hits planning and sending alike
SMALL = {
    "TIDINGS_PAGE_SIZE": "50",
    "TIDINGS_BATCH_SIZE": "25",
    "TIDINGS_WORKER_CONCURRENCY": str(IN_FLIGHT),
    "TIDINGS_FLUSH_ROWS": str(UNFLUSHED),
    "TIDINGS_DATABASE_POOL": "8",
    "TIDINGS_USER_LIMIT": "0",
}


class Stage(Protocol):
    """Makes a scene whose users `u00000…` have one device each, spread over the first `hosts` push services."""

    async def __call__(self, people: int, *, hosts: int = 1, on: PostgresServer | None = None) -> Scene: ...


Populated = Callable[[PostgresServer, int, int], Awaitable[str]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pushes() -> AsyncIterator[Sequence[SpawnedMockPush]]:
    async with AsyncExitStack() as stack:
        options = MockPushOptions(verify_share=0.02, keep=20_000)
        yield [await stack.enter_async_context(spawn(options)) for _ in range(2)]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def populated(pushes: Sequence[SpawnedMockPush], tmp_path_factory: pytest.TempPathFactory) -> Populated:
    """Return the name of a database with people in it, to be copied; made when first asked for."""
    made: dict[tuple[int, int, int], str] = {}

    async def template(postgres: PostgresServer, people: int, hosts: int) -> str:
        key = (postgres.port, people, hosts)
        if key not in made:
            url = postgres.fresh()
            await _populate(url, tmp_path_factory.mktemp("crowd"), pushes[:hosts], people)
            made[key] = url.rpartition("/")[2]
        return made[key]

    return template


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey that the test may kill, stop and empty."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def stage(
    postgres: PostgresServer,
    own_valkey: ValkeyServer,
    populated: Populated,
    pushes: Sequence[SpawnedMockPush],
    tmp_path: Path,
) -> Stage:
    """Make a scene. on: a PostgreSQL that the test harms; the default is everybody's."""

    async def staged(people: int, *, hosts: int = 1, on: PostgresServer | None = None) -> Scene:
        server = on or postgres
        template = await populated(server, people, hosts)
        name = f"{template}_{tmp_path.name}".lower().replace("-", "_")[:60]
        server.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        server.sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        for push in pushes:
            await push.control.reset()
        url = server.url(name)
        settings = {
            "TIDINGS_DATABASE": url,
            "TIDINGS_REDIS": own_valkey.url,
            "TIDINGS_PUSH_EXTRA_HOSTS": ",".join(push.origin.removeprefix("http://") for push in pushes),
            "TIDINGS_LOG_FORMAT": "json",
            **SMALL,
        }
        names = [_name(number) for number in range(people)]
        return Scene(server, url, own_valkey, pushes[:hosts], names, tmp_path / "data", settings)

    return staged


@pytest.fixture
def faster(hooked: dict[str, str]) -> dict[str, str]:
    """Variables of a process whose leases, locks and sweeps take a fifteenth of their time."""
    return {**hooked, "CHAOS_FASTER": "15"}


@pytest.fixture
def hooked() -> dict[str, str]:
    """Variables of a process that harm can be done to from inside."""
    return {"PYTHONPATH": os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])}


def _name(number: int) -> str:
    return f"u{number:05}"


async def _populate(database: str, data_dir: Path, pushes: Sequence[SpawnedMockPush], people: int) -> None:
    settings = Settings(
        data_dir=data_dir,
        database=database,
        bootstrap_key=ADMIN_KEY,
        user_secret=USER_SECRET,
        secret_key=SECRET_KEY,
        push_extra_hosts=tuple(push.origin.removeprefix("http://") for push in pushes),
    )
    now, names = datetime.now(UTC), [_name(number) for number in range(people)]
    async with Runtime.open(settings) as runtime, runtime.store.begin() as tx:
        await runtime.store.users.upsert(tx, [User(name) for name in names], now)
        for index, push in enumerate(pushes):
            simulated = [devices.Simulated(name, name, "Phone") for name in names[index :: len(pushes)]]
            await devices.add(runtime, tx, simulated, origin=push.origin, now=now)
