"""Recurring notifications reach their users with what the host answers, in both ways of running."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.server import TidingsServer, eventually

from tidings.channels.webhook import generate_secret
from tidings.testing.http_server import Answer, HttpServer, ReceivedRequest, Reply
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]


@dataclass
class Host:
    """The host product: answers with the next of `answers`, then with 204."""

    answers: list[Answer] = field(default_factory=list)
    asked: list[Json] = field(default_factory=list)

    def answer(self, request: ReceivedRequest) -> Answer:
        self.asked.append(msgspec.json.decode(request.body))
        return self.answers.pop(0) if self.answers else Reply(204)


@dataclass
class Site:
    """A running installation, and the host that it asks."""

    server: TidingsServer
    host: Host
    url: str

    async def put(self, name: str, **fields: object) -> Json:
        body = {
            "templateCode": "MESSAGE",
            "audience": {"kind": "users", "userIds": ["ana", "ben"]},
            "variables": {"title": name},
            "variablesUrl": self.url,
            "at": ["MON 09:00"],
            "timezone": "user",
            "options": {"channels": ["inapp"]},
        }
        reply: Json = (await self.server.expect(201, "PUT", f"/api/recurring/{name}", body | fields)).read(Json)
        return reply

    async def wait_for(self, name: str, *states: str) -> list[Json]:
        """Return the runs once the newest has one of the states."""

        async def read() -> list[Json] | None:
            runs: list[Json] = (await self.server.expect(200, "GET", f"/api/recurring/{name}/runs")).read(Json)["items"]
            return runs if runs and runs[0]["state"] in states else None

        return await eventually(read)

    async def read_feed(self, user: str) -> list[tuple[str, str]]:
        token = self.server.user_token(user)
        items = (await self.server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
        return [(item["title"], item["body"]) for item in items]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "scaled"])
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A server with feeds; `scaled`: an API process and two workers on PostgreSQL and Valkey."""
    folder = tmp_path_factory.mktemp("recurring") / "data"
    host = Host()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(HttpServer(host.answer))
        settings = {
            "TIDINGS_INAPP__ENABLED": "true",
            "TIDINGS_WEBHOOK__TRUSTED_HOSTS": http.authority,
            "TIDINGS_WEBHOOK__EVENTS_SECRET": generate_secret(),
        }
        if request.param == "sqlite":
            server = await stack.enter_async_context(TidingsServer(folder, settings=settings))
        else:
            postgres = stack.enter_context(PostgresServer(settings=("fsync=off",)))
            valkey = stack.enter_context(ValkeyServer())
            settings |= {"TIDINGS_DATABASE": postgres.create_database(), "TIDINGS_REDIS": valkey.url}
            server, *workers = (ServerProcess(role, folder, settings=settings) for role in ("api", "worker", "worker"))
            await asyncio.gather(*(stack.enter_async_context(one) for one in (server, *workers)))
        for user in ("ana", "ben"):
            await server.expect(201, "PUT", f"/api/users/{user}", {"timezone": "Europe/Berlin"})
        yield Site(server, host, f"{http.url}/week")


async def test_c15_a_run_asks_the_host_and_reaches_the_audience(site: Site) -> None:
    site.host.answers = [Reply(200, b'{"variables": {"body": "Three orders"}}')]
    stored = await site.put("weekly")
    assert stored["nextRunAt"] is not None
    started = (await site.server.expect(202, "POST", "/api/recurring/weekly/run")).read(Json)
    [run] = await site.wait_for("weekly", "accepted")
    assert run["id"] == started["id"]
    await site.server.wait_until_finished(run["notificationId"])
    for user in ("ana", "ben"):
        assert await site.read_feed(user) == [("weekly", "Three orders")]
    assert [one["data"]["runId"] for one in site.host.asked] == [started["id"]]
    explained = (
        await site.server.expect(200, "GET", f"/api/explain?userId=ana&notificationId={run['notificationId']}")
    ).read(Json)
    assert "It is of the recurring notification weekly." in explained["sentences"]


async def test_c15_nothing_to_send_and_failures_are_in_the_history(site: Site) -> None:
    await site.put("quiet")
    await site.server.expect(202, "POST", "/api/recurring/quiet/run")
    [empty] = await site.wait_for("quiet", "empty")
    assert empty["reason"] == "its source had nothing to send"
    site.host.answers = [Reply(500)]
    await site.server.expect(202, "POST", "/api/recurring/quiet/run")

    async def read_failed() -> Json | None:
        [run, *_] = (await site.server.expect(200, "GET", "/api/recurring/quiet/runs")).read(Json)["items"]
        return run if run["reason"] else None

    failed = await eventually(read_failed)
    assert (failed["state"], failed["attempts"]) == ("pending", 1)
    assert failed["reason"] == "the endpoint answered 500, not 200 or 204"
    paused = (await site.server.expect(200, "POST", "/api/recurring/quiet/pause")).read(Json)
    assert paused["isPaused"]
    assert [run["state"] for run in await site.wait_for("quiet", "cancelled")] == ["cancelled", "empty"]


async def test_c15_the_command_line_runs_what_is_stored(site: Site) -> None:
    site.host.answers = [Reply(200, b'{"variables": {"body": "From the command line"}}')]
    await site.put("manual")
    command = [sys.executable, "-m", "tidings.cli", "recurring", "run", "manual", "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, env=site.server.environment, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    [run] = await site.wait_for("manual", "accepted")
    assert run["id"] == msgspec.json.decode(printed)["id"]
