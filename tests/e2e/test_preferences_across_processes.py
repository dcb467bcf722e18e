"""Preferences across two API processes on one database and one Redis: a change at one is visible at the other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.server import eventually

from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
CATEGORY = "EVENT_TIME_CHANGE"
PATH = "/api/users/ana/preferences"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    postgres: PostgresServer, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """Two API processes, and the user ana."""
    valkey.flush()
    database = postgres.create_database()
    settings = {"TIDINGS_DATABASE": database, "TIDINGS_REDIS": valkey.url, "TIDINGS_DATABASE_POOL": "5"}
    data_dir = tmp_path_factory.mktemp("pair") / "data"
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(ServerProcess("api", data_dir, settings=settings))
        two = await stack.enter_async_context(ServerProcess("api", data_dir, settings=settings))
        await one.expect(201, "PUT", "/api/users/ana", {})
        yield one, two
    postgres.drop_database(database)


async def test_a_change_at_one_process_is_visible_at_the_other(pair: tuple[ServerProcess, ServerProcess]) -> None:
    for turn in range(6):
        writer, reader = pair if turn % 2 else pair[::-1]
        enabled = turn % 2 == 1
        await read_preference(reader)
        body = {"preferences": [{"category": CATEGORY, "channel": "webpush", "enabled": enabled}]}
        await writer.expect(200, "PUT", PATH, body)
        assert await read_preference(writer) is enabled

        async def seen(reader: ServerProcess = reader, enabled: bool = enabled) -> bool:
            return await read_preference(reader) is enabled

        # the invalidation takes a moment to arrive
        await eventually(seen, within=2.0, pause=0)


async def test_hits_and_misses_are_counted(pair: tuple[ServerProcess, ServerProcess]) -> None:
    one, _ = pair

    async def hits() -> float:
        await read_preference(one)
        lines = (await one.expect(200, "GET", "/metrics")).body.decode().splitlines()
        found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
        assert found['tidings_cache_lookups_total{cache="preferences",result="miss"}'] > 0
        return found['tidings_cache_lookups_total{cache="preferences",result="hit"}']

    before = await hits()

    async def more() -> bool:
        # a user who has just changed a preference is not cached for a few seconds
        return await hits() > before

    await eventually(more, within=30)


async def test_an_erased_user_is_unknown_to_both_processes(pair: tuple[ServerProcess, ServerProcess]) -> None:
    one, two = pair
    await two.expect(200, "GET", PATH)
    await one.expect(204, "DELETE", "/api/users/ana")
    await one.expect(404, "GET", PATH)

    async def gone() -> bool:
        return (await two.call("GET", PATH)).status == 404

    await eventually(gone, within=2.0, pause=0)


async def read_preference(member: ServerProcess) -> bool:
    """Return the Web Push preference of the category, as returned by one process."""
    found = (await member.expect(200, "GET", PATH)).read(Json)
    return {one["code"]: one["channels"]["webpush"] for one in found["categories"]}[CATEGORY] is True
