"""Idempotency: concurrent repeats of a request do the work once and get the same response."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.server import HttpResponse, TidingsServer

from tidings.errors import BackendError
from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def ana(server: TidingsServer, push: SpawnedMockPush) -> None:
    await server.expect(201, "PUT", "/api/users/ana", {})
    device = await push.control.subscription("ana")
    await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token("ana"))


def message(title: str) -> Json:
    return {"userId": "ana", "templateCode": "MESSAGE", "variables": {"title": title, "body": "There"}}


async def notify(server: TidingsServer, title: str, key: str) -> HttpResponse:
    return await server.call("POST", "/api/notifications", message(title), headers={"Idempotency-Key": key})


async def titles(server: TidingsServer) -> list[str]:
    items = (await server.expect(200, "GET", "/api/notifications?limit=500")).read(Json)["items"]
    return [one["variables"]["title"] for one in items]


async def test_fifty_concurrent_requests_create_one_notification(server: TidingsServer, push: SpawnedMockPush) -> None:
    answers = await asyncio.gather(*(notify(server, "once", "key-1") for _ in range(50)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    await server.wait_until_finished(answers[0].read(Json)["id"])
    assert (await titles(server)).count("once") == 1
    assert (await push.control.stats()).accepted == 1


async def test_another_body_under_the_same_key_is_rejected(server: TidingsServer) -> None:
    assert (await notify(server, "first", "key-2")).status == 202
    other = await notify(server, "second", "key-2")
    assert (other.status, other.read(Json)["code"]) == (422, "idempotency_key_reused")
    assert "second" not in await titles(server)


async def test_a_key_belongs_to_its_caller(server: TidingsServer) -> None:
    event = {"title": "Recital", "startDate": "2030-06-21T19:00:00Z"}
    created = await server.expect(201, "POST", "/api/events", event, headers={"Idempotency-Key": "key-3"})
    again = await server.expect(201, "POST", "/api/events", event, headers={"Idempotency-Key": "key-3"})
    assert created.body == again.body
    body = {"endpoint": "https://fcm.googleapis.com/fcm/send/x"}
    mine = await server.call(
        "DELETE", "/api/push/unsubscribe", body, token=server.user_token("ana"), headers={"Idempotency-Key": "key-3"}
    )
    assert mine.status == 204


async def test_a_rejected_request_does_not_use_up_its_key(server: TidingsServer) -> None:
    wrong = {**message("again"), "templateCode": "NO_SUCH"}
    headers = {"Idempotency-Key": "key-4"}
    assert (await server.call("POST", "/api/notifications", wrong, headers=headers)).status == 422
    assert (await notify(server, "again", "key-4")).status == 202


async def test_a_repeat_after_a_kill_does_the_work_once(
    make_server: Callable[..., TidingsServer], push: SpawnedMockPush, tmp_path: Path
) -> None:
    """The server is killed during the requests. The caller does not know the result, and repeats the requests."""
    async with make_server(tmp_path / "data") as server:
        await server.expect(201, "PUT", "/api/users/ana", {})
        requests = [asyncio.create_task(notify(server, "unsure", "key-5")) for _ in range(20)]
        # the first response shows that the requests are in progress
        await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        await server.kill()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        first = [answer for answer in answers if isinstance(answer, HttpResponse)]
        assert all(isinstance(answer, HttpResponse | BackendError) for answer in answers)
        await server.restart()
        repeated = await notify(server, "unsure", "key-5")
        assert {answer.body for answer in (*first, repeated)} == {repeated.body}
        assert (await titles(server)).count("unsure") == 1


async def test_a_kill_under_load_leaves_each_request_done_once(
    make_server: Callable[..., TidingsServer], tmp_path: Path
) -> None:
    """Requests of one group commit are stored together or not at all; no confirmed request is lost."""
    async with make_server(tmp_path / "data") as server:
        await server.expect(201, "PUT", "/api/users/ana", {})
        wanted = [f"load-{number}" for number in range(200)]
        requests = [asyncio.create_task(notify(server, title, title)) for title in wanted]
        while sum(one.done() for one in requests) < 40:
            await asyncio.wait([one for one in requests if not one.done()], return_when=asyncio.FIRST_COMPLETED)
        await server.kill()
        before = [
            one for one in await asyncio.gather(*requests, return_exceptions=True) if isinstance(one, HttpResponse)
        ]
        assert len(before) >= 40
        await server.restart()
        kept = await titles(server)
        answers = await asyncio.gather(*(notify(server, title, title) for title in wanted))
        assert {one.status for one in answers} == {202}
        assert {one.body for one in before} <= {one.body for one in answers}
        assert len(kept) >= len(before)
        assert sorted(await titles(server)) == sorted(wanted)
