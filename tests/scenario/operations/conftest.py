"""What an operator does, on both set-ups: one server on SQLite; API and two workers on PostgreSQL and Valkey.

The set-ups are shared by the files of this folder. Tests have users of their own, and leave the push service mended.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tidings.testing.fleet import Member
from tidings.testing.installation import Installation
from tidings.testing.mock_push import SpawnedMockPush, spawn
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

#: names of the set-ups; `parametrize("site", ["serve"], indirect=True)` chooses one
SERVE, FLEET = "serve", "fleet"


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def push() -> AsyncIterator[SpawnedMockPush]:
    async with spawn() as service:
        yield service


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def mended(push: SpawnedMockPush) -> AsyncIterator[None]:
    """After each test every message is taken again."""
    yield
    await push.control.behave()


@pytest_asyncio.fixture(scope="package", loop_scope="session", params=[SERVE, FLEET])
async def site(
    request: pytest.FixtureRequest, push: SpawnedMockPush, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    # the same people, by name, are on the other set-up too
    await push.control.reset()
    folder = tmp_path_factory.mktemp("site") / "data"
    settings = {
        "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
        # the tests tell the same few people again and again
        "TIDINGS_USER_LIMIT": "0",
    }
    async with AsyncExitStack() as stack:
        if request.param == SERVE:
            server = await stack.enter_async_context(Member("serve", folder, settings=settings))
            yield Installation(server, [server], push)
            return
        # of their own: tests stop them, and start them again
        postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
        valkey = stack.enter_context(ValkeyServer(append_only=True))
        settings |= {
            "TIDINGS_DATABASE": postgres.fresh(),
            "TIDINGS_REDIS": valkey.url,
            "TIDINGS_DATABASE_POOL": "8",
            # nothing that a test waits for is found by the schedule
            "TIDINGS_PROCESS_EVERY": "0",
        }
        members = [Member(command, folder, settings=settings) for command in ("api", "worker", "worker")]
        await asyncio.gather(*(stack.enter_async_context(member) for member in members))
        api, *workers = members
        yield Installation(api, workers, push, (postgres, valkey))
