"""Webhook endpoints and chats in operation: new secrets, disabled contact points, and what they missed."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from standardwebhooks import Webhook, WebhookVerificationError
from tests.support.server import TidingsServer, eventually

from tidings.channels.webhook import generate_secret
from tidings.testing.fake_chats import FakeChats
from tidings.testing.http_server import Answer, HttpServer, ReceivedRequest, Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
EVENTS_SECRET = generate_secret()


class Endpoint:
    """An endpoint whose answer a test sets."""

    def __init__(self) -> None:
        self.answer: Answer = Reply(204)
        self.server = HttpServer(lambda _request: self.answer)

    @property
    def url(self) -> str:
        return f"{self.server.url}/in"

    def read_titles(self) -> list[str]:
        return [msgspec.json.decode(request.body)["data"]["title"] for request in self.server.requests]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    async with endpoint.server:
        yield endpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host_product() -> AsyncIterator[Endpoint]:
    """The endpoint of the host product, which wants status events."""
    endpoint = Endpoint()
    async with endpoint.server:
        yield endpoint


@pytest.fixture(scope="module")
def host(host_product: Endpoint) -> HttpServer:
    return host_product.server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chats() -> AsyncIterator[FakeChats]:
    async with FakeChats() as services:
        yield services


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    endpoint: Endpoint, host: HttpServer, chats: FakeChats, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    settings = {
        "TIDINGS_WEBHOOK__ENABLED": "true",
        "TIDINGS_INAPP__ENABLED": "true",
        "TIDINGS_WEBHOOK__TRUSTED_HOSTS": f"{endpoint.server.authority},{host.authority}",
        "TIDINGS_WEBHOOK__EVENTS_URL": f"{host.url}/events",
        "TIDINGS_WEBHOOK__EVENTS_SECRET": EVENTS_SECRET,
        "TIDINGS_CHAT__ENABLED": "true",
        "TIDINGS_CHAT__DISCORD_URL": chats.url,
        "TIDINGS_CHAT__TRUSTED_HOSTS": chats.server.authority,
    }
    async with TidingsServer(tmp_path_factory.mktemp("webhooks") / "data", settings=settings) as started:
        yield started


@pytest.fixture(autouse=True)
def _reset(endpoint: Endpoint) -> None:
    endpoint.answer = Reply(204)
    endpoint.server.requests.clear()


async def add_endpoint(server: TidingsServer, user: str, url: str) -> Json:
    await server.expect(201, "PUT", f"/api/users/{user}", {})
    point = {"channel": "webhook", "address": url, "label": "Orders"}
    created: Json = (await server.expect(201, "POST", f"/api/users/{user}/contact-points", point)).read(Json)
    return created


async def notify(server: TidingsServer, user: str, title: str, **options: object) -> str:
    body = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": title, "body": "-"}}
    options = {"channels": ["webhook"], **options}
    accepted = (await server.expect(202, "POST", "/api/notifications", {**body, "options": options})).read(Json)
    await server.wait_until_finished(accepted["id"])
    notification: str = accepted["id"]
    return notification


def verify(secret: str, request: ReceivedRequest) -> bool:
    try:
        Webhook(secret).verify(request.body, dict(request.headers))
    except WebhookVerificationError:
        return False
    return True


async def test_c73_both_secrets_sign_during_the_overlap(server: TidingsServer, endpoint: Endpoint) -> None:
    point = await add_endpoint(server, "rotating", endpoint.url)
    [old] = point["secrets"]
    path = f"/api/users/rotating/contact-points/{point['id']}/rotate-secret"
    rotated = (await server.expect(200, "POST", path, {})).read(Json)
    [new] = rotated["secrets"]
    await notify(server, "rotating", "during the overlap")
    assert [verify(secret, endpoint.server.requests[0]) for secret in (old, new)] == [True, True]
    # the owner's own route; without an overlap only the newest secret signs
    own = f"/api/users/me/contact-points/{point['id']}/rotate-secret"
    token = server.user_token("rotating")
    [newest] = (await server.expect(200, "POST", own, {"overlapSeconds": 0}, token=token)).read(Json)["secrets"]
    await notify(server, "rotating", "after the rotation")
    assert [verify(secret, endpoint.server.requests[1]) for secret in (old, new, newest)] == [False, False, True]
    listed = (await server.expect(200, "GET", "/api/users/rotating/contact-points")).body
    assert all(secret.encode() not in listed for secret in (old, new, newest))


async def test_a_repeated_rotation_with_one_key_rotates_once(server: TidingsServer, endpoint: Endpoint) -> None:
    point = await add_endpoint(server, "repeating", endpoint.url)
    path = f"/api/users/repeating/contact-points/{point['id']}/rotate-secret"
    first, second = [await server.expect(200, "POST", path, {}, headers={"Idempotency-Key": "r-1"}) for _ in range(2)]
    assert first.body == second.body


async def test_c74_an_endpoint_that_answers_410_is_disabled_and_its_owner_told(
    server: TidingsServer, endpoint: Endpoint
) -> None:
    point = await add_endpoint(server, "refusing", endpoint.url)
    token = server.user_token("refusing")
    endpoint.answer = Reply(410)
    await notify(server, "refusing", "refused")
    [stored] = (await server.expect(200, "GET", "/api/users/refusing/contact-points")).read(Json)["items"]
    assert stored["state"] == "disabled"

    async def is_told() -> Json | None:
        items = (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
        return items[0] if items else None

    notice = await eventually(is_told)
    assert notice["title"] == "Your webhook endpoint Orders was disabled"
    assert notice["body"].startswith("It asked for no more messages.")
    endpoint.answer = Reply(204)
    endpoint.server.requests.clear()
    missed = await notify(server, "refusing", "missed")
    assert (await server.get_progress(missed)).skipped == 1
    path = f"/api/users/me/contact-points/{point['id']}"
    enabled = (await server.expect(200, "POST", f"{path}/enable", {}, token=token)).read(Json)
    assert (enabled["state"], enabled["missed"], enabled["replayed"]) == ("active", 2, 0)
    assert endpoint.server.requests == []
    replayed = (await server.expect(200, "POST", f"{path}/replay", {}, token=token)).read(Json)
    assert replayed == {"replayed": 2, "hasMore": False}

    async def are_received() -> bool:
        return len(endpoint.server.requests) >= 2

    await eventually(are_received)
    assert sorted(endpoint.read_titles()) == ["missed", "refused"]
    progress = await server.wait_until_finished(missed)
    assert (progress.by_state, progress.skipped, progress.deliveries) == ({"delivered": 1}, 0, 1)
    again = (await server.expect(200, "POST", f"{path}/replay", {}, token=token)).read(Json)
    assert again == {"replayed": 0, "hasMore": False}


async def test_c75_each_payload_has_its_order_within_its_subject(server: TidingsServer, endpoint: Endpoint) -> None:
    await add_endpoint(server, "ordered", endpoint.url)
    for version in (3, 4):
        await notify(server, "ordered", f"v{version}", subject={"key": "order:7", "version": version})
    data = [msgspec.json.decode(request.body)["data"] for request in endpoint.server.requests]
    assert [(one["collapseKey"], one["sequence"]) for one in data] == [("order:7", 3), ("order:7", 4)]


async def test_the_host_product_receives_what_became_of_a_notification(
    server: TidingsServer, endpoint: Endpoint, host: HttpServer
) -> None:
    await add_endpoint(server, "observed", endpoint.url)
    delivered = await notify(server, "observed", "delivered")
    skipped = await notify(server, "observed", "skipped", channels=["email"])

    async def are_received() -> dict[str, list[str]] | None:
        events = [event for one in host.requests for event in msgspec.json.decode(one.body)["data"]["events"]]
        types = {key: [one["type"] for one in events if one["notificationId"] == key] for key in (delivered, skipped)}
        return types if all(len(found) >= 2 for found in types.values()) else None

    assert await eventually(are_received) == {
        delivered: ["notification.accepted", "delivery.delivered"],
        skipped: ["notification.accepted", "delivery.skipped"],
    }
    assert all(verify(EVENTS_SECRET, request) for request in host.requests)


async def test_a_chat_receives_messages_and_its_address_is_not_shown(server: TidingsServer, chats: FakeChats) -> None:
    listed = (await server.expect(200, "GET", "/api/channels")).read(Json)["items"]
    [channel] = [one for one in listed if one["name"] == "chat"]
    assert (channel["configured"], channel["setting"]) == (True, "TIDINGS_CHAT__ENABLED")
    await server.expect(201, "PUT", "/api/users/chatty", {})
    address = "https://discord.com/api/webhooks/12/soSecret"
    point = {"channel": "chat", "address": address}
    path = "/api/users/chatty/contact-points"
    created = await server.expect(201, "POST", path, point)
    again = await server.expect(200, "POST", path, {**point, "address": "discord://12/soSecret"})
    assert created.read(Json)["id"] == again.read(Json)["id"]
    responses = [created, again, await server.expect(200, "GET", path)]
    responses.append(await server.expect(200, "GET", "/api/users/chatty"))
    assert all(b"discord://12/" in one.body and b"soSecret" not in one.body for one in responses)
    refused = await server.expect(422, "POST", path, {**point, "address": "mailto://a:b@mail.example"})
    assert "must be slack://" in str(refused.read(Json))
    notification = await notify(server, "chatty", "Doors @everyone", channels=["chat"])
    assert (await server.get_progress(notification)).by_state == {"delivered": 1}
    [message] = chats.messages
    assert message.text.startswith("**Doors")
    assert message.mentions == ()
    # what the channel's test route says is what the service answered
    tested = await server.expect(200, "POST", "/api/channels/chat/test", {"address": "discord://12/soSecret"})
    assert tested.read(Json)["outcome"] == "delivered"
    chats.enqueue(Reply(404, b'{"message": "Unknown Webhook", "code": 10015}'))
    await notify(server, "chatty", "lost", channels=["chat"])
    [stored] = (await server.expect(200, "GET", path)).read(Json)["items"]
    assert stored["state"] == "disabled"
    token = server.user_token("chatty")

    async def is_told() -> str | None:
        items = (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
        return str(items[0]["title"]) if items else None

    assert await eventually(is_told) == "Your chat destination was disabled"


@pytest.mark.parametrize(
    ("action", "status", "code"),
    [("rotate-secret", 404, "unknown_contact_point"), ("enable", 404, "unknown_contact_point")],
)
async def test_a_contact_point_of_another_user_cannot_be_changed(
    server: TidingsServer, endpoint: Endpoint, action: str, status: int, code: str
) -> None:
    point = await add_endpoint(server, f"owner-{action}", endpoint.url)
    await server.expect(201, "PUT", f"/api/users/thief-{action}", {})
    token = server.user_token(f"thief-{action}")
    path = f"/api/users/me/contact-points/{point['id']}/{action}"
    assert (await server.expect(status, "POST", path, {}, token=token)).read(Json)["code"] == code


@pytest.mark.extended
async def test_events_survive_a_killed_server(server: TidingsServer, host_product: Endpoint) -> None:
    host_product.answer = Reply(500)
    await server.expect(201, "PUT", "/api/users/survivor", {})
    notification = await notify(server, "survivor", "survives", channels=["email"])

    def list_ids() -> set[str]:
        requests = host_product.server.requests
        return {one.headers["webhook-id"] for one in requests if notification.encode() in one.body}

    async def is_tried() -> bool:
        return bool(list_ids())

    await eventually(is_tried)
    await server.kill()
    tried = list_ids()
    host_product.server.requests.clear()
    host_product.answer = Reply(204)
    await server.start()

    async def are_repeated() -> bool:
        return tried <= list_ids()

    await eventually(are_repeated, within=60)
