"""The usage examples of the systems that Tidings replaces, each as a scenario in its API, on one server."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from bullmq import Queue  # type: ignore[import-untyped]  # ships no types
from tests.support.server import SECRET_KEY, USER_SECRET, TidingsServer, eventually
from websockets.asyncio.client import connect

from tidings import Tidings
from tidings.mockpush import SpawnedMockPush
from tidings.testing.ports import free_port
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
EVENT = {"title": "Night of Strings", "startDate": "2030-06-21T19:00:00+02:00", "venue": "Tonhalle", "hostId": "host"}
ORDER = {"userName": "Ana", "orderNumber": "ORD-12345", "total": 4999, "currency": "INR"}


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


@pytest.fixture(scope="module")
def room_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def settings(valkey: ValkeyServer, room_port: int) -> Mapping[str, str]:
    return {
        "TIDINGS_REDIS": valkey.url,
        "TIDINGS_INAPP__ENABLED": "true",
        "TIDINGS_STREAM_GRACE": "0.5",
        "TIDINGS_STREAM_HEARTBEAT": "0.4",
        "WEBSOCKET_PORT": str(room_port),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def users(server: TidingsServer) -> None:
    for name in ("ana", "ben", "cem", "host"):
        await server.expect(201, "PUT", f"/api/users/{name}", {})


@pytest_asyncio.fixture(loop_scope="module")
async def event(server: TidingsServer) -> str:
    """A published event; ana and ben hold tickets."""
    created: str = (await server.expect(201, "POST", "/api/events", {**EVENT, "status": "ACTIVE"})).read(Json)["id"]
    for name in ("ana", "ben"):
        await server.expect(201, "POST", f"/api/events/{created}/tickets", {"userId": name})
    return created


async def estimate(server: TidingsServer, audience: Json) -> Json:
    """Return the recipients of a message that is not sent."""
    message = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}, "options": {"dryRun": True}}
    return (await server.expect(200, "POST", "/api/notifications", {**message, "audience": audience})).read(Json)


async def test_m01_m03_changes_are_detected_and_users_are_targeted(server: TidingsServer, event: str) -> None:
    changed = (await server.expect(200, "PATCH", f"/api/events/{event}", {"venue": "Opera"})).read(Json)["change"]
    assert (changed["type"], changed["significant"], len(changed["fields"])) == ("venue_change", True, 1)
    holders: Json = {"kind": "ticket_holders", "eventId": event}
    assert set((await estimate(server, holders))["sample"]) == {"ana", "ben"}
    excluding = {"and": [holders, {"not": {"kind": "users", "userIds": ["ben"]}}]}
    assert (await estimate(server, excluding))["sample"] == ["ana"]
    # no cache to invalidate: a returned ticket counts at once
    await server.expect(204, "DELETE", f"/api/events/{event}/tickets", {"userId": "ana"})
    counted = await estimate(server, holders)
    assert (counted["recipients"], counted["byChannel"]["inapp"]) == (1, 1)


async def test_m05_m08_a_browser_subscribes_and_an_administrator_notifies_by_hand(
    server: TidingsServer, push: SpawnedMockPush, event: str
) -> None:
    key = (await server.expect(200, "GET", "/api/push/public-key", token=None)).read(Json)["publicKey"]
    await push.control.bind("ana-phone", key)
    subscription = await push.control.subscription("ana-phone")
    ana = server.user_token("ana")
    await server.expect(201, "POST", "/api/push/subscribe", subscription, token=ana)
    text = {"title": "Doors open early", "body": "At six."}
    await server.expect(403, "POST", f"/api/events/{event}/notify", text, token=ana)
    sent = (await server.expect(202, "POST", f"/api/events/{event}/notify", text)).read(Json)["id"]
    assert (await server.wait_until_finished(sent)).by_state == {"delivered": 3}, "two feeds and one device"
    endpoint = {"endpoint": subscription["endpoint"]}
    await server.expect(204, "DELETE", "/api/push/unsubscribe", endpoint, token=ana)
    assert (await server.expect(200, "GET", "/api/push/subscriptions", token=ana)).read(Json)["items"] == []


async def test_m22_due_work_is_enqueued_or_processed_in_the_request(server: TidingsServer) -> None:
    assert (await server.expect(202, "POST", "/api/notifications/process")).status == 202
    assert (await server.expect(200, "PUT", "/api/notifications/process")).status == 200


async def test_m24_the_last_viewer_leaves_and_the_host_is_notified(
    server: TidingsServer, event: str, room_port: int
) -> None:
    address = f"{server.url.replace('http', 'ws', 1).rpartition(':')[0]}:{room_port}"
    token = server.user_token("ana")
    async with connect(f"{address}/api/streams/{event}/ws?token={token}") as socket:
        assert json.loads(await socket.recv())["type"] == "joined"
        assert (await server.expect(200, "GET", f"/api/streams/{event}/clients")).read(Json)["count"] == 1
        assert (await server.expect(200, "GET", "/api/streams/clients")).read(Json)["total"] == 1

    async def list_notices() -> list[Json] | None:
        feed = (await server.expect(200, "GET", "/api/inbox", token=server.user_token("host"))).read(Json)["items"]
        return [item for item in feed if item["category"] == "STREAM_ENDED"] or None

    [notice] = await eventually(list_notices, within=30)
    assert notice["title"] == "Event Stream Completed"


async def test_m26_m28_one_user_or_many_are_notified_now_or_later(server: TidingsServer) -> None:
    options = {"priority": "high", "actionUrl": "/orders/123", "actionText": "View Order"}
    body = {"userId": "ana", "templateCode": "ORDER_CREATED", "variables": {"orderId": "123", **ORDER}}
    single = (await server.expect(202, "POST", "/api/notifications", {**body, "options": options})).read(Json)["id"]
    stock = {"productName": "Premium Widget", "currentStock": 5, "threshold": 10, "sku": "widget"}
    many = {"userIds": ["ana", "ben", "cem"], "templateCode": "LOW_STOCK_ALERT", "variables": stock}
    batch = (
        await server.expect(202, "POST", "/api/notifications/batch", {**many, "options": {"priority": "urgent"}})
    ).read(Json)["id"]
    assert (await server.wait_until_finished(single)).by_state == {"delivered": 1}
    assert (await server.wait_until_finished(batch)).by_state == {"delivered": 3}
    welcome = {"userId": "ana", "templateCode": "USER_WELCOME", "variables": {"userName": "Alice"}}
    later = (await server.expect(202, "POST", "/api/notifications", {**welcome, "options": {"delay": 3_600_000}})).read(
        Json
    )["id"]
    waiting = (await server.expect(200, "GET", f"/api/notifications/{later}")).read(Json)
    created, due = (datetime.fromisoformat(waiting[name]) for name in ("createdAt", "sendAt"))
    assert abs(due - created - timedelta(hours=1)) < timedelta(minutes=1)
    await server.expect(200, "DELETE", f"/api/notifications/{later}")
    lanes = (await server.expect(200, "GET", "/api/queues")).read(Json)["lanes"]
    assert {"waiting", "active", "completed", "failed"} <= set(lanes[0])


@pytest_asyncio.fixture(loop_scope="module")
async def tidings(server: TidingsServer, valkey: ValkeyServer) -> AsyncIterator[Tidings]:
    secrets = {"user_secret": USER_SECRET, "secret_key": SECRET_KEY}
    async with Tidings.from_env(data_dir=server.data_dir, redis=valkey.url, **secrets) as library:
        yield library


async def test_m28_every_way_of_publishing_takes_the_same_options(
    server: TidingsServer, tidings: Tidings, valkey: ValkeyServer
) -> None:
    words = {"title": "Your order", "body": "It is on its way."}
    options = {"priority": "low", "delay": 3_600_000, "actionUrl": "/orders/1", "actionText": "View"}
    body: Json = {"userId": "ana", "templateCode": "MESSAGE", "variables": words, "options": options}
    over_http = (await server.expect(202, "POST", "/api/notifications", body)).read(Json)["id"]
    in_python = await tidings.notify(
        "MESSAGE",
        to="ana",
        variables=words,
        priority="low",
        delay=timedelta(hours=1),
        action_url="/orders/1",
        action_text="View",
    )
    queue = Queue("{tidings-intake}", {"connection": valkey.url})
    job = await queue.add("publish-notification", body, {})

    async def find_result() -> str | None:
        value = await queue.client.hget(f"{queue.keys['']}{job.id}", "returnvalue")
        return None if value is None else str(json.loads(value)["id"])

    over_queue = await eventually(find_result, within=60, pause=0.2)
    await queue.close()
    found = [
        (await server.expect(200, "GET", f"/api/notifications/{one}")).read(Json)
        for one in (over_http, in_python.id, over_queue)
    ]
    for one in found:
        assert (one["priority"], one["actionUrl"], one["actionText"]) == ("low", "/orders/1", "View")
        wait = datetime.fromisoformat(one["sendAt"]) - datetime.fromisoformat(one["createdAt"])
        assert timedelta(minutes=55) < wait <= timedelta(hours=1, minutes=1)
    wrong = {**body, "options": {**options, "priority": "highest"}}
    problem = (await server.expect(422, "POST", "/api/notifications", wrong)).read(Json)
    assert [error["field"] for error in problem["errors"]] == ["options.priority"]
    await asyncio.gather(*(server.expect(200, "DELETE", f"/api/notifications/{one['id']}") for one in found))
