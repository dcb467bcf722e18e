"""Events of providers over HTTP: a bounce stops the next message, and STOP the next SMS."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from aiosmtpd.controller import Controller
from tests.e2e.test_email import Mailbox, notify
from tests.support.server import HttpResponse, TidingsServer

from tidings.testing.fake_providers import FakeSmsProvider
from tidings.testing.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
SECRET = "a secret of the hooks of this test"
CALLBACK = "https://tidings.example/hooks/sms/twilio"
SENDER = "+15005550006"
STOPS = ("STOP", "stop", " Stop. ", "UNSUBSCRIBE", "Quit!")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sms() -> AsyncIterator[FakeSmsProvider]:
    async with FakeSmsProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def mailbox() -> Any:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield box, controller.port
    controller.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    mailbox: tuple[Mailbox, int], sms: FakeSmsProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    folder: Path = tmp_path_factory.mktemp("events")
    settings = {
        "TIDINGS_SMTP_URL": f"smtp://127.0.0.1:{mailbox[1]}",
        "TIDINGS_EMAIL_FROM": "Jazz Club <news@jazz.example>",
        "TIDINGS_EMAIL__HOOK_SECRET": SECRET,
        "TIDINGS_SMS_URL": sms.url_with_credentials,
        "TIDINGS_SMS__SENDER": SENDER,
        "TIDINGS_SMS__COUNTRIES": "US",
        "TIDINGS_SMS__CALLBACK_URL": CALLBACK,
        "TIDINGS_SMS__HELP_TEXT": "Jazz Club: write STOP to end & info@jazz.example for help",
    }
    async with TidingsServer(folder / "data", settings=settings) as started:
        yield started


async def report(server: TidingsServer, *events: Json, secret: str = SECRET, status: int = 200) -> HttpResponse:
    return await server.expect(status, "POST", "/hooks/email/generic", {"events": list(events)}, token=secret)


async def post_sms(server: TidingsServer, provider: FakeSmsProvider, fields: dict[str, str], query: str = "") -> bytes:
    """Call the hook as the provider does, with a form. Returns the body of the response."""
    url = CALLBACK + (f"?{query}" if query else "")
    path = "/hooks/sms/twilio" + (f"?{query}" if query else "")
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "x-twilio-signature": provider.sign(url, fields),
    }
    response = await server.call("POST", path, urlencode(fields).encode(), token=None, headers=headers)
    assert response.status == 200, response.body
    return response.body


async def load_trace(server: TidingsServer, user: str) -> Json:
    """Return the explanation of the newest notification to a user."""
    page = (await server.expect(200, "GET", f"/api/notifications?userId={user}&limit=1")).read(Json)
    newest = page["items"][0]["id"]
    path = f"/api/explain?userId={user}&notificationId={newest}"
    return (await server.expect(200, "GET", path)).read(Json)


async def test_a_bounce_stops_the_next_message_until_it_is_lifted(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    await server.expect(201, "PUT", "/api/users/ana", {"email": "Ana@example.org"})
    assert await notify(server, "ana") == {"delivered": 1}
    [message] = mailbox[0].find("Ana@example.org")
    bounce = {
        "type": "bounced",
        "recipient": "ana@EXAMPLE.org",
        "messageId": str(message["Message-ID"]),
        "code": "5.1.1",
        "detail": "550 5.1.1 <ana@example.org> does not exist",
    }
    for _ in range(2):
        await report(server, bounce)
    bounced = await load_trace(server, "ana")
    assert bounced["verdict"] == "failed"
    [delivery] = bounced["deliveries"]
    assert (delivery["receiptStatus"], [one["repeats"] for one in delivery["receipts"]]) == ("bounced", [1])
    assert "generic reported" in " ".join(bounced["sentences"])
    assert "ana@example.org" not in json.dumps(delivery["receipts"]).lower()

    assert await notify(server, "ana") == {"skipped": 1}
    skipped = await load_trace(server, "ana")
    assert "it does not exist, as a bounce said" in " ".join(skipped["sentences"])
    [delivery] = skipped["deliveries"]
    suppression_id = delivery["detail"]["suppressionId"]
    [listed] = (await server.expect(200, "GET", "/api/suppressions?channel=email")).read(Json)["items"]
    assert (listed["id"], listed["reason"], listed["source"], listed["count"]) == (
        suppression_id,
        "hard_bounce",
        "generic",
        1,
    )
    exported = (await server.expect(200, "GET", "/api/users/ana")).read(Json)
    assert [one["id"] for one in exported["suppressions"]] == [suppression_id]
    assert [one["cause"] for one in exported["providerEvents"]] == ["hard_bounce"]

    missing = await server.expect(422, "DELETE", f"/api/suppressions/{suppression_id}")
    assert missing.read(Json)["errors"][0]["field"] == "reason"
    lifted = await server.expect(200, "DELETE", f"/api/suppressions/{suppression_id}?reason=mailbox%20is%20back")
    assert (lifted.read(Json)["liftReason"], lifted.read(Json)["liftedBy"]) == ("mailbox is back", "bootstrap")
    assert await notify(server, "ana") == {"delivered": 1}
    await server.expect(404, "DELETE", "/api/suppressions/nonsense?reason=unknown")


async def test_c56_a_confirmed_delivery_lifts_an_earlier_bounce(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    await server.expect(201, "PUT", "/api/users/ben", {"email": "ben@example.org"})
    assert await notify(server, "ben") == {"delivered": 1}
    await report(server, {"type": "bounced", "recipient": "ben@example.org", "id": "b1", "code": "5.1.1"})
    assert await notify(server, "ben") == {"skipped": 1}
    # of another message, and later
    await report(server, {"type": "delivered", "recipient": "ben@example.org", "messageId": "m2", "id": "b2"})
    assert await notify(server, "ben") == {"delivered": 1}
    path = "/api/suppressions?channel=email&address=ben%40example.org"
    assert (await server.expect(200, "GET", path)).read(Json)["items"] == []
    [ended] = (await server.expect(200, "GET", f"{path}&ended=true")).read(Json)["items"]
    assert (ended["liftedBy"], ended["liftReason"]) == ("system", "a later delivery was confirmed")


async def test_an_operator_suppresses_an_address_and_a_misspelt_one_is_refused(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    await server.expect(201, "PUT", "/api/users/cleo", {"email": "cleo@example.org"})
    body = {"channel": "email", "address": "Cleo@Example.org", "reason": "manual", "scope": "all"}
    added = (await server.expect(201, "POST", "/api/suppressions", body)).read(Json)
    assert (added["reason"], added["author"], added["scope"]) == ("manual", "bootstrap", "all")
    assert await notify(server, "cleo") == {"skipped": 1}
    assert mailbox[0].find("cleo@example.org") == []
    for wrong, field in (
        ({"channel": "pigeon"}, "channel"),
        ({"address": "nobody"}, "address"),
        ({"scope": "category", "category": "NOPE"}, "category"),
        ({"scope": "category"}, "category"),
        ({"category": "MESSAGE"}, "category"),
        ({"reason": "because"}, "reason"),
    ):
        refused = await server.expect(422, "POST", "/api/suppressions", body | wrong)
        assert refused.read(Json)["errors"][0]["field"] == field
    refused = await server.expect(422, "GET", "/api/suppressions?address=cleo@example.org")
    assert refused.read(Json)["errors"][0]["field"] == "channel"

    lift = {**body, "reason": "asked by phone"}
    await server.expect(404, "DELETE", "/api/suppressions", {**lift, "scope": "category"})
    [lifted] = (await server.expect(200, "DELETE", "/api/suppressions", lift)).read(Json)["items"]
    assert (lifted["id"], lifted["liftReason"]) == (added["id"], "asked by phone")
    await server.expect(404, "DELETE", "/api/suppressions", lift)
    assert await notify(server, "cleo") == {"delivered": 1}


async def test_c50_calls_that_cannot_be_verified_are_refused_counted_and_reported(server: TidingsServer) -> None:
    event = {"type": "bounced", "recipient": "dan@example.org", "code": "5.1.1"}
    for _ in range(5):
        await report(server, event, secret="wrong", status=401)
    page = (await server.expect(200, "GET", "/api/suppressions?channel=email&address=dan@example.org")).read(Json)
    assert page["items"] == []
    metrics = (await server.expect(200, "GET", "/metrics", token=None)).body.decode()
    assert 'tidings_hook_calls_total{channel="email",provider="generic",result="rejected"} 5.0' in metrics
    assert "hook_rejected" in server.log_tail()
    await report(server, {**event, "type": "sent"})
    await server.expect(404, "POST", "/hooks/email/ses", {}, token=SECRET)
    await server.expect(404, "POST", "/hooks/webpush/generic", {}, token=SECRET)
    await server.expect(422, "POST", "/hooks/email/generic", {"events": 7}, token=SECRET)


async def test_c66_stop_in_five_spellings_ends_messages_until_start(
    server: TidingsServer, sms: FakeSmsProvider
) -> None:
    for number, spelling in enumerate(STOPS):
        user, phone = f"sms{number}", f"+1650253000{number}"
        await server.expect(201, "PUT", f"/api/users/{user}", {"phone": phone})
        assert await notify(server, user) == {"delivered": 1}
        answer = {"MessageSid": f"SM-stop-{number}", "From": phone, "To": SENDER, "Body": spelling}
        assert await post_sms(server, sms, answer) == b"<Response/>"
        assert await notify(server, user) == {"skipped": 1}, spelling
        start = {"MessageSid": f"SM-start-{number}", "From": phone, "To": SENDER, "Body": "Start"}
        await post_sms(server, sms, start)
        assert await notify(server, user) == {"delivered": 1}, spelling


async def test_c66_help_is_answered_and_an_unclear_answer_is_left_to_an_operator(
    server: TidingsServer, sms: FakeSmsProvider
) -> None:
    await server.expect(201, "PUT", "/api/users/eve", {"phone": "+16502530020"})
    answer = {"MessageSid": "SM-help", "From": "+16502530020", "To": SENDER, "Body": "Help"}
    assert b"write STOP to end &amp; info@jazz.example" in await post_sms(server, sms, answer)
    unclear = {"MessageSid": "SM-unclear", "From": "+16502530020", "To": SENDER, "Body": "STOP PLEASE"}
    await post_sms(server, sms, unclear)
    assert await notify(server, "eve") == {"delivered": 1}
    [event] = (await server.expect(200, "GET", "/api/provider-events?cause=review")).read(Json)["items"]
    assert (event["detail"], event["recipient"]) == ("STOP PLEASE", "+16502530020")
    assert "reply_unclear" in server.log_tail()


async def test_c48_a_receipt_of_an_sms_is_shown_with_its_delivery(server: TidingsServer, sms: FakeSmsProvider) -> None:
    await server.expect(201, "PUT", "/api/users/fay", {"phone": "+16502530030"})
    assert await notify(server, "fay") == {"delivered": 1}
    message = next(one for one in reversed(sms.messages) if one.recipient == "+16502530030")
    query = message.form["StatusCallback"].partition("?")[2]
    for status in ("delivered", "sent"):
        fields = {"MessageSid": message.message_id, "MessageStatus": status, "To": message.recipient, "From": SENDER}
        await post_sms(server, sms, fields, query)
    [delivery] = (await load_trace(server, "fay"))["deliveries"]
    assert (delivery["receiptStatus"], len(delivery["receipts"])) == ("delivered", 2)
    assert delivery["attempts"][0]["messageId"] == message.message_id


async def test_c68_an_invalid_number_ends_the_contact_point_and_keeps_the_user(
    server: TidingsServer, sms: FakeSmsProvider
) -> None:
    await server.expect(201, "PUT", "/api/users/gus", {"phone": "+16502530040", "email": "gus@example.org"})
    fields = {
        "MessageSid": "SM-landline",
        "MessageStatus": "undelivered",
        "ErrorCode": "30006",
        "To": "+16502530040",
        "From": SENDER,
    }
    await post_sms(server, sms, fields)
    points = (await server.expect(200, "GET", "/api/users/gus/contact-points")).read(Json)["items"]
    assert {point["channel"]: point["state"] for point in points} == {"email": "active", "sms": "gone"}
    assert await notify(server, "gus") == {"delivered": 1}
