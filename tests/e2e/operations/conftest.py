"""Operator tasks on both installations: one server on SQLite; API and two workers on PostgreSQL and Valkey.

The files of this folder share the installations. Each test has its own users, and resets the push service's rules.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation

from tidings.mockpush import SpawnedMockPush, spawn
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

#: names of the installations; `parametrize("site", ["serve"], indirect=True)` selects one
SERVE, FLEET = "serve", "fleet"


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def push() -> AsyncIterator[SpawnedMockPush]:
    async with spawn() as service:
        yield service


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def _reset_push_rules(push: SpawnedMockPush) -> AsyncIterator[None]:
    """After each test the push service accepts every message again."""
    yield
    await push.control.set_rules()


@pytest_asyncio.fixture(scope="package", loop_scope="session", params=[SERVE, FLEET])
async def site(
    request: pytest.FixtureRequest, push: SpawnedMockPush, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    # the other installation has users of the same names
    await push.control.reset()
    folder = tmp_path_factory.mktemp("site") / "data"
    settings = {
        "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
        # the tests notify the same few users repeatedly
        "TIDINGS_USER_LIMIT": "0",
    }
    async with AsyncExitStack() as stack:
        if request.param == SERVE:
            server = await stack.enter_async_context(ServerProcess("serve", folder, settings=settings))
            yield Installation(server, [server], push)
            return
        # separate servers, because tests stop and restart them
        postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
        valkey = stack.enter_context(ValkeyServer(append_only=True))
        settings |= {
            "TIDINGS_DATABASE": postgres.create_database(),
            "TIDINGS_REDIS": valkey.url,
            "TIDINGS_DATABASE_POOL": "8",
            # no test may depend on the schedule for due work
            "TIDINGS_PROCESS_EVERY": "0",
        }
        processes = [ServerProcess(command, folder, settings=settings) for command in ("api", "worker", "worker")]
        await asyncio.gather(*(stack.enter_async_context(process) for process in processes))
        api, *workers = processes
        yield Installation(api, workers, push, (postgres, valkey))
