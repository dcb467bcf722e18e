"""What an operator does, on both set-ups: one server on SQLite; API and worker on PostgreSQL and Valkey.

The set-ups are shared by the files of this folder. Tests have users of their own, and leave the push service mended.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tidings.testing.fleet import Member
from tidings.testing.installation import Installation
from tidings.testing.mock_push import SpawnedMockPush, spawn
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def push() -> AsyncIterator[SpawnedMockPush]:
    async with spawn() as service:
        yield service


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def mended(push: SpawnedMockPush) -> AsyncIterator[None]:
    """After each test every message is taken again."""
    yield
    await push.control.behave()


@pytest_asyncio.fixture(scope="package", loop_scope="session", params=["serve on SQLite", "api and worker"])
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
        if request.param == "serve on SQLite":
            server = await stack.enter_async_context(Member("serve", folder, settings=settings))
            yield Installation(server, [server], push)
            return
        postgres: PostgresServer = request.getfixturevalue("postgres")
        valkey = stack.enter_context(ValkeyServer())
        url = postgres.fresh()
        stack.callback(postgres.drop, url)
        settings |= {"TIDINGS_DATABASE": url, "TIDINGS_REDIS": valkey.url, "TIDINGS_DATABASE_POOL": "8"}
        api = await stack.enter_async_context(Member("api", folder, settings=settings))
        worker = await stack.enter_async_context(Member("worker", folder, settings=settings))
        yield Installation(api, [worker], push, url)
