"""Digests, with a real server: ten updates for one user become one message."""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.support.server import TidingsServer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]


@pytest.fixture(scope="module")
def settings() -> Mapping[str, str]:
    return {"TIDINGS_INAPP__ENABLED": "true"}


async def notify(server: TidingsServer, user: str, title: str, **digest: object) -> str:
    """Return the id of a notification that is collected."""
    body = {
        "userId": user,
        "templateCode": "MESSAGE",
        "variables": {"title": title, "body": "Changed", "eventId": "e-1"},
        "options": {"digest": {"windowSeconds": 3, **digest}},
    }
    accepted = (await server.expect(202, "POST", "/api/notifications", body)).read(Json)
    identifier: str = accepted["id"]
    return identifier


async def read_feed(server: TidingsServer, user: str) -> list[Json]:
    response = await server.expect(200, "GET", "/api/inbox", token=server.user_token(user))
    items: list[Json] = response.read(Json)["items"]
    return items


async def test_m19_ten_updates_become_one_message(server: TidingsServer) -> None:
    await server.expect(201, "PUT", "/api/users/ana", {})
    triggers = [
        await notify(server, "ana", f"Update {number}", key="eventId", windowSeconds=600, maxItems=10)
        for number in range(10)
    ]

    async def has_arrived() -> bool:
        return bool(await read_feed(server, "ana"))

    await eventually(has_arrived, within=30)
    [item] = await read_feed(server, "ana")
    assert item["title"] == "10 updates"
    assert item["body"].splitlines() == [f"Update {number}: Changed" for number in range(10)]
    for trigger in triggers:
        status = (await server.expect(200, "GET", f"/api/notifications/{trigger}")).read(Json)
        assert (status["collected"], status["deliveries"], status["finished"]) == (1, 0, True)
    query = "/api/digests?userId=ana&key=e-1"
    assert (await server.expect(200, "GET", query)).read(Json)["items"] == []
    [digest] = (await server.expect(200, "GET", f"{query}&state=closed")).read(Json)["items"]
    assert (digest["count"], digest["templateCode"], digest["reason"]) == (10, "MESSAGE", None)
    trace = (await server.expect(200, "GET", f"/api/notifications/{triggers[0]}/trace")).read(Json)
    [collected] = trace["collected"]
    assert (collected["state"], collected["notificationId"]) == ("digested", digest["notificationId"])
    told = await server.expect(200, "GET", f"/api/explain?userId=ana&notificationId={triggers[0]}")
    assert told.read(Json)["verdict"] == "digested"
    export = (await server.expect(200, "GET", "/api/users/ana")).read(Json)
    assert [len(one["items"]) for one in export["digests"]] == [10]


async def test_c16_an_open_digest_survives_a_kill(server: TidingsServer) -> None:
    await server.expect(201, "PUT", "/api/users/ben", {})
    for title in ("Before", "Too"):
        await notify(server, "ben", title)
    await server.kill()
    await server.start()
    await notify(server, "ben", "After")

    async def has_all() -> bool:
        lines = [line for item in await read_feed(server, "ben") for line in item["body"].splitlines()]
        return len([line for line in lines if line.endswith("Changed")]) == 3

    await eventually(has_all, within=30)
    assert len(await read_feed(server, "ben")) <= 2


async def test_c36_a_key_without_its_variable_is_refused(server: TidingsServer) -> None:
    body = {
        "userId": "ana",
        "templateCode": "MESSAGE",
        "variables": {"title": "A", "body": "B"},
        "options": {"digest": {"windowSeconds": 3, "key": "orderId"}},
    }
    problem = (await server.expect(422, "POST", "/api/notifications", body)).read(Json)
    assert [error["field"] for error in problem["errors"]] == ["options.digest.key"]


@pytest.mark.parametrize(
    "digest",
    [
        pytest.param({"windowSeconds": 60, "sliding": True, "maxSeconds": 30}, id="c4-maximum-below-the-window"),
        pytest.param({"windowSeconds": 60, "catchUpSeconds": 30}, id="c14-catch-up-of-a-window"),
    ],
)
async def test_a_digest_that_cannot_work_is_refused(server: TidingsServer, digest: dict[str, object]) -> None:
    body = {
        "userId": "ana",
        "templateCode": "MESSAGE",
        "variables": {"title": "A", "body": "B"},
        "options": {"digest": digest},
    }
    await server.expect(422, "POST", "/api/notifications", body)
