"""Audiences by what is known of users reach exactly these users, in both ways of running."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.server import TidingsServer

from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
TEXT = {"templateCode": "MESSAGE", "variables": {"title": "Doors", "body": "Open at six"}}
PRO = {"kind": "attribute", "name": "plan", "operator": "eq", "value": "pro"}
NEAR = {"kind": "near", "latitude": 47.37, "longitude": 8.54, "radiusKm": 30}
LOCAL_FANS = {"and": [NEAR, {"or": [PRO, {"kind": "topic", "topic": "jazz"}]}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "scaled"])
async def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    """A server with feeds; `scaled`: an API process and a worker on PostgreSQL and Valkey."""
    folder = tmp_path_factory.mktemp("audiences") / "data"
    settings = {"TIDINGS_INAPP__ENABLED": "true"}
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            server = await stack.enter_async_context(TidingsServer(folder, settings=settings))
        else:
            postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
            valkey = stack.enter_context(ValkeyServer())
            settings |= {"TIDINGS_DATABASE": postgres.create_database(), "TIDINGS_REDIS": valkey.url}
            server, worker = (ServerProcess(role, folder, settings=settings) for role in ("api", "worker"))
            await asyncio.gather(stack.enter_async_context(server), stack.enter_async_context(worker))
        for user, profile in {
            "ana": {"attributes": {"plan": "pro"}, "latitude": 47.4, "longitude": 8.5},
            "ben": {"attributes": {"plan": "free"}, "latitude": 47.5, "longitude": 8.7},
            "cleo": {"attributes": {"plan": "pro"}, "latitude": 46.2, "longitude": 6.1},
            "dan": {"attributes": {"plan": "free"}, "latitude": 47.4, "longitude": 8.5},
        }.items():
            await server.expect(201, "PUT", f"/api/users/{user}", profile)
        await server.expect(200, "PUT", "/api/users/me/topics/jazz", token=server.user_token("ben"))
        yield server


async def read_titles(site: TidingsServer, user: str) -> list[str]:
    feed = (await site.expect(200, "GET", "/api/inbox", token=site.user_token(user))).read(Json)
    return [item["title"] for item in feed["items"]]


async def test_a_saved_audience_reaches_its_users_and_no_others(site: TidingsServer) -> None:
    saved = {"definition": LOCAL_FANS, "description": "Near the club"}
    await site.expect(201, "PUT", "/api/audiences/local-fans", saved)
    body = TEXT | {"audience": {"kind": "saved", "name": "local-fans"}, "options": {"channels": ["inapp"]}}
    accepted = (await site.expect(202, "POST", "/api/notifications", body)).read(Json)
    await site.expect(204, "DELETE", "/api/audiences/local-fans")
    assert (await site.wait_until_finished(accepted["id"])).by_state == {"delivered": 2}
    assert {user: await read_titles(site, user) for user in ("ana", "ben", "cleo", "dan")} == {
        "ana": ["Doors"],
        "ben": ["Doors"],
        "cleo": [],
        "dan": [],
    }
    explained = (await site.expect(200, "GET", f"/api/explain?userId=ana&notificationId={accepted['id']}")).read(Json)
    # the definition, which was deleted, and not its name
    assert "has an attribute plan that is eq pro" in str(explained["audience"])


async def test_f9_a_deleted_audience_reaches_nobody(site: TidingsServer) -> None:
    body = TEXT | {"audience": {"not": {"kind": "saved", "name": "deleted"}}}
    reply = await site.call("POST", "/api/notifications", body)
    assert reply.status == 422
    assert reply.read(Json)["code"] == "unknown_audience"


async def test_engagement_and_the_estimate_follow_what_users_do(site: TidingsServer) -> None:
    everyone = {"audience": {"kind": "everyone"}, "options": {"channels": ["inapp"]}}
    accepted = (await site.expect(202, "POST", "/api/notifications", TEXT | everyone)).read(Json)
    await site.wait_until_finished(accepted["id"])
    await site.expect(200, "POST", "/api/inbox/seen", {"ids": [accepted["id"]]}, token=site.user_token("dan"))
    engaged = {"kind": "engaged", "action": "seen", "days": 1}
    for audience, size in ((engaged, 1), ({"not": engaged}, 3), (LOCAL_FANS, 2)):
        body = {"audience": audience, "channels": ["inapp"]}
        estimate = (await site.expect(200, "POST", "/api/audiences/estimate", body)).read(Json)
        assert (estimate["size"], estimate["reachable"]) == (size, size)
    await site.expect(201, "PUT", "/api/audiences/all", {"definition": {"kind": "everyone"}})
    stats = (await site.expect(200, "GET", "/api/audiences/all/stats")).read(Json)
    assert stats["channels"]["inapp"] == {"contactable": 4, "engaged": 1, "mostEngaged": 1}


async def test_the_command_line_estimates_while_the_server_runs(site: TidingsServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings.cli", "audiences", "estimate", "--audience", json.dumps(PRO), "--json"),
        env=site.environment,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    estimate = json.loads(output)
    assert (estimate["size"], estimate["sample"]) == (2, ["ana", "cleo"])
