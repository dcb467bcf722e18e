"""One notification reaches a user on every configured channel, and each outcome is explained."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks import Webhook
from tests.support.server import TidingsServer

from tidings.mockpush import SpawnedMockPush
from tidings.testing.fake_providers import FakeSmsProvider, LimitRate, LoseReply, RefuseMessage
from tidings.testing.http_server import HttpServer, Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
PHONE = "+15005550100"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sms() -> AsyncIterator[FakeSmsProvider]:
    async with FakeSmsProvider() as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[HttpServer]:
    async with HttpServer(lambda _request: Reply(204)) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    push: SpawnedMockPush, sms: FakeSmsProvider, endpoint: HttpServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    settings = {
        "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
        "TIDINGS_SMS_URL": f"{sms.url_with_credentials}?from=%2B15005550006",
        "TIDINGS_WEBHOOK__ENABLED": "true",
        "TIDINGS_INAPP__ENABLED": "true",
        "TIDINGS_WEBHOOK__TRUSTED_HOSTS": endpoint.authority,
    }
    async with TidingsServer(tmp_path_factory.mktemp("channels") / "data", settings=settings) as started:
        yield started


async def notify(server: TidingsServer, user: str, **options: object) -> str:
    body = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": "Doors", "body": "Open at six"}}
    accepted = await server.expect(202, "POST", "/api/notifications", {**body, "options": options})
    notification: str = accepted.read(Json)["id"]
    return notification


async def read_deliveries(server: TidingsServer, notification: str) -> dict[str, Json]:
    path = f"/api/notifications/{notification}/deliveries"
    return {one["channel"]: one for one in (await server.expect(200, "GET", path)).read(Json)["items"]}


async def test_c70_a_number_that_could_not_be_reached_is_no_contact_point(server: TidingsServer) -> None:
    assert (await server.call("PUT", "/api/users/bob", {"locale": "en"})).status in (200, 201)
    settings = {"+447400123456": "TIDINGS_SMS__COUNTRIES", "+19002530000": "TIDINGS_SMS__ALLOW_PREMIUM"}
    for number, setting in settings.items():
        point = {"channel": "sms", "address": number}
        problem = (await server.expect(422, "POST", "/api/users/bob/contact-points", point)).read(Json)
        assert [error["field"] for error in problem["errors"]] == ["address"]
        assert setting in problem["errors"][0]["message"]


async def test_a_message_reaches_a_user_on_four_channels(
    server: TidingsServer, push: SpawnedMockPush, sms: FakeSmsProvider, endpoint: HttpServer
) -> None:
    await server.expect(201, "PUT", "/api/users/ana", {"phone": PHONE})
    device = await push.control.subscription("ana")
    await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token("ana"))
    point = {"channel": "webhook", "address": f"{endpoint.url}/in"}
    created = (await server.expect(201, "POST", "/api/users/ana/contact-points", point)).read(Json)
    [secret] = created["secrets"]
    listed = (await server.expect(200, "GET", "/api/users/ana/contact-points")).read(Json)["items"]
    assert {one["channel"] for one in listed} == {"sms", "webhook", "webpush"}
    assert secret not in str(listed)
    notification = await notify(server, "ana")
    assert (await server.wait_until_finished(notification)).by_state == {"delivered": 4}
    [message] = await push.control.messages(device="ana")
    assert message.payload is not None
    assert [(one.recipient, one.text) for one in sms.messages] == [(PHONE, "Doors\nOpen at six")]
    [request] = endpoint.requests
    Webhook(secret).verify(request.body, dict(request.headers))
    deliveries = await read_deliveries(server, notification)
    assert {name: one["attempts"][0]["outcome"] for name, one in deliveries.items()} == dict.fromkeys(
        ("inapp", "sms", "webhook", "webpush"), "delivered"
    )
    explained = await server.expect(200, "GET", f"/api/explain?userId=ana&notificationId={notification}")
    assert "accepted by the sms service" in str(explained.read(Json))


@pytest.mark.parametrize(
    ("number", "behaviour", "state"),
    [
        ("+15005550101", RefuseMessage(21610), "gone"),
        ("+15005550102", LoseReply(), "uncertain"),
    ],
    ids=["opted out", "reply lost"],
)
async def test_an_answer_of_the_sms_provider_decides_the_final_state(
    server: TidingsServer, sms: FakeSmsProvider, number: str, behaviour: Any, state: str
) -> None:
    sms.set_behaviour(number, behaviour)
    await server.expect(201, "PUT", f"/api/users/u{number[-3:]}", {"phone": number})
    notification = await notify(server, f"u{number[-3:]}", channels=["sms"])
    assert (await server.wait_until_finished(notification)).by_state == {state: 1}
    before = len(sms.requests)
    again = await notify(server, f"u{number[-3:]}", channels=["sms"])
    progress = await server.wait_until_finished(again)
    if state == "gone":
        assert (progress.by_state, len(sms.requests)) == ({"skipped": 1}, before), "the number opted out"


async def test_a_provider_that_asks_to_wait_spends_no_attempt(server: TidingsServer, sms: FakeSmsProvider) -> None:
    sms.enqueue_behaviours(LimitRate(1))
    await server.expect(201, "PUT", "/api/users/late", {"phone": "+15005550103"})
    notification = await notify(server, "late", channels=["sms"])
    assert (await server.wait_until_finished(notification)).by_state == {"delivered": 1}
    attempts = (await read_deliveries(server, notification))["sms"]["attempts"]
    assert [(one["number"], one["outcome"]) for one in attempts] == [(1, "deferred"), (1, "delivered")]


async def test_a_feed_has_the_message_until_it_is_read_on_any_device(server: TidingsServer) -> None:
    await server.expect(201, "PUT", "/api/users/feed", {})
    token = server.user_token("feed")
    notification = await notify(server, "feed", channels=["inapp"])
    assert (await server.wait_until_finished(notification)).by_state == {"delivered": 1}
    counts = (await server.expect(200, "GET", "/api/inbox/counts", token=token)).read(Json)
    assert (counts["unseen"], counts["unread"]) == (1, 1)
    [item] = (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
    assert (item["title"], item["body"]) == ("Doors", "Open at six")
    await server.expect(200, "POST", f"/api/inbox/{item['id']}/read", token=token)
    counts = (await server.expect(200, "GET", "/api/inbox/counts", token=token)).read(Json)
    assert (counts["unseen"], counts["unread"]) == (0, 0)
    await server.expect(200, "POST", f"/api/notifications/{notification}/recall")
    assert (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"] == []


async def test_a_test_message_is_sent_over_every_channel_with_addresses(
    server: TidingsServer, sms: FakeSmsProvider, endpoint: HttpServer
) -> None:
    await server.expect(201, "PUT", "/api/users/tess", {})
    before = len(sms.messages)
    for channel, address in (("sms", PHONE), ("webhook", f"{endpoint.url}/test"), ("inapp", "tess")):
        sent = await server.expect(200, "POST", f"/api/channels/{channel}/test", {"address": address})
        assert sent.read(Json)["outcome"] == "delivered", channel
    assert [one.recipient for one in sms.messages[before:]] == [PHONE]
    [request] = [one for one in endpoint.requests if one.path == "/test"]
    assert request.headers["webhook-signature"].startswith("v1,")
    items = (await server.expect(200, "GET", "/api/inbox", token=server.user_token("tess"))).read(Json)["items"]
    assert [one["title"] for one in items] == ["Test message"]
    await server.expect(409, "POST", "/api/channels/email/test", {"address": "ana@example.org"})
    await server.expect(404, "POST", "/api/channels/webpush/test", {"address": "x"})
