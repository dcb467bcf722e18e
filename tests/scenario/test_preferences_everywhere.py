"""Two API processes on one database and one Redis: what a user changed at one is what the other shows."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from tidings.testing.fleet import Member
from tidings.testing.postgres import PostgresServer
from tidings.testing.server import eventually
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
CATEGORY = "EVENT_TIME_CHANGE"
PATH = "/api/users/ana/preferences"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    postgres: PostgresServer, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Member, Member]]:
    """Two API processes, and the user ana."""
    valkey.flush()
    database = postgres.fresh()
    settings = {"TIDINGS_DATABASE": database, "TIDINGS_REDIS": valkey.url, "TIDINGS_DATABASE_POOL": "5"}
    data_dir = tmp_path_factory.mktemp("pair") / "data"
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Member("api", data_dir, settings=settings))
        two = await stack.enter_async_context(Member("api", data_dir, settings=settings))
        await one.expect(201, "PUT", "/api/users/ana", {})
        yield one, two
    postgres.drop(database)


async def test_a_change_at_one_is_shown_by_the_other(pair: tuple[Member, Member]) -> None:
    for turn in range(6):
        writer, reader = pair if turn % 2 else pair[::-1]
        enabled = turn % 2 == 1
        await shown(reader)
        body = {"preferences": [{"category": CATEGORY, "channel": "webpush", "enabled": enabled}]}
        await writer.expect(200, "PUT", PATH, body)
        assert await shown(writer) is enabled

        async def seen(reader: Member = reader, enabled: bool = enabled) -> bool:
            return await shown(reader) is enabled

        # the moment that a note takes on its way
        await eventually(seen, within=2.0, pause=0)


async def test_hits_and_misses_are_counted(pair: tuple[Member, Member]) -> None:
    one, _ = pair

    async def hits() -> float:
        await shown(one)
        lines = (await one.expect(200, "GET", "/metrics")).body.decode().splitlines()
        found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
        assert found['tidings_cache_lookups_total{cache="preferences",result="miss"}'] > 0
        return found['tidings_cache_lookups_total{cache="preferences",result="hit"}']

    before = await hits()

    async def more() -> bool:
        # a user who has just changed something is not remembered for a few seconds
        return await hits() > before

    await eventually(more, within=30)


async def test_an_erased_user_is_gone_from_both(pair: tuple[Member, Member]) -> None:
    one, two = pair
    await two.expect(200, "GET", PATH)
    await one.expect(204, "DELETE", "/api/users/ana")
    await one.expect(404, "GET", PATH)

    async def gone() -> bool:
        return (await two.call("GET", PATH)).status == 404

    await eventually(gone, within=2.0, pause=0)


async def shown(member: Member) -> bool:
    """Return what a process says about web push in the category."""
    found = (await member.expect(200, "GET", PATH)).read(Json)
    return {one["code"]: one["channels"]["webpush"] for one in found["categories"]}[CATEGORY] is True
