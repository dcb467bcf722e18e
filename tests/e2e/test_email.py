"""E-mail through a real SMTP server: two relays, the message, and the unsubscribe link that it contains."""

import asyncio
import email
import json
import re
import sys
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import default
from typing import Any
from urllib.parse import urlsplit

import icalendar
import pytest
import pytest_asyncio
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.support.server import TidingsServer

from tidings.testing.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]


class Mailbox:
    """Accepts mail, except for the local parts `unknown` (550) and `full` (452)."""

    def __init__(self) -> None:
        self.received: list[tuple[list[str], EmailMessage]] = []

    async def handle_RCPT(  # noqa: N802  # named by aiosmtpd
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("unknown@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # as above
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        self.received.append((list(envelope.rcpt_tos), message))
        return "250 OK"

    def find(self, address: str) -> list[EmailMessage]:
        return [message for recipients, message in self.received if recipients == [address]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mailbox() -> AsyncIterator[tuple[Mailbox, int]]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield box, controller.port
    controller.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    mailbox: tuple[Mailbox, int], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TidingsServer]:
    settings = {
        # nothing listens at the first relay
        "TIDINGS_SMTP_URL": f"smtp://127.0.0.1:{free_port()} smtp://127.0.0.1:{mailbox[1]}",
        "TIDINGS_EMAIL_FROM": "Jazz Club <news@jazz.example>",
        "TIDINGS_EMAIL__POSTAL_ADDRESS": "1 Main Street, Basel",
        "TIDINGS_EMAIL__TRACK_CLICKS": "EVENT_MANUAL",
    }
    async with TidingsServer(tmp_path_factory.mktemp("mail") / "data", settings=settings) as started:
        yield started


async def notify(server: TidingsServer, user: str, **variables: str) -> dict[str, int]:
    body = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": "Doors", "body": "Open", **variables}}
    accepted = await server.expect(202, "POST", "/api/notifications", body)
    return dict((await server.wait_until_finished(accepted.read(Json)["id"])).by_state)


async def test_a_message_is_sent_over_the_second_relay_with_text_and_html(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    await server.expect(201, "PUT", "/api/users/ana", {"email": "Ana@example.org"})
    assert await notify(server, "ana", title="Doors & more\r\nBcc: x@y.example", body="<b>Open</b> at six") == {
        "delivered": 1
    }
    [message] = mailbox[0].find("Ana@example.org")
    assert message["From"] == "Jazz Club <news@jazz.example>"
    assert "Doors & more" in message["Subject"]
    assert message["Bcc"] is None
    assert message["Auto-Submitted"] == "auto-generated"
    html, text = message.get_body(("html",)), message.get_body(("plain",))
    assert html is not None
    assert text is not None
    assert "&lt;b&gt;Open&lt;/b&gt; at six" in html.get_content()
    assert "<b>Open</b> at six" in text.get_content()
    assert "1 Main Street, Basel" in text.get_content()


async def test_c51_the_unsubscribe_link_works_once_and_again_and_only_by_post(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    await server.expect(201, "PUT", "/api/users/ben", {"email": "ben@example.org", "locale": "de"})
    assert await notify(server, "ben") == {"delivered": 1}
    [message] = mailbox[0].find("ben@example.org")
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    [link] = re.findall(r"<(https?://[^>]+)>", message["List-Unsubscribe"])
    path = urlsplit(link).path
    for _ in range(3):
        page = await server.expect(200, "GET", path, token=None)
        assert b"<form" in page.body
    assert await notify(server, "ben") == {"delivered": 1}, "opening the link changes nothing"
    # as mail programs post it (RFC 8058 §3.2)
    form, headers = b"List-Unsubscribe=One-Click", {"content-type": "application/x-www-form-urlencoded"}
    for _ in range(2):
        await server.expect(200, "POST", path, form, token=None, headers=headers)
    assert await notify(server, "ben") == {}
    shown = await server.expect(200, "GET", "/api/users/ben/preferences")
    assert '"email":false' in shown.body.decode().replace(" ", "")
    for method in ("GET", "POST"):
        await server.expect(404, method, f"{path}x", token=None)


async def test_c62_a_click_is_part_of_the_trace_the_explanation_and_the_export(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    await server.expect(201, "PUT", "/api/users/fay", {"email": "fay@example.org"})
    variables = {"title": "Doors", "body": "Open", "eventId": "7"}
    body = {"userId": "fay", "templateCode": "EVENT_MANUAL", "variables": variables}
    notification = (await server.expect(202, "POST", "/api/notifications", body)).read(Json)["id"]
    await server.wait_until_finished(notification)
    [message] = mailbox[0].find("fay@example.org")
    html = message.get_body(("html",))
    assert html is not None
    [link] = set(re.findall(r'href="(https?://[^"]+/l/[^"]+)"', html.get_content()))
    followed = await server.expect(302, "GET", urlsplit(link).path, token=None)
    assert followed.headers["location"].endswith("/events/7")
    [delivery] = (await server.expect(200, "GET", f"/api/notifications/{notification}/trace")).read(Json)["deliveries"]
    # the message was sent a moment ago
    assert delivery["engagement"] == {"humanOpens": 0, "machineOpens": 0, "humanClicks": 0, "machineClicks": 1}
    explained = await server.expect(200, "GET", f"/api/explain?userId=fay&notificationId={notification}")
    assert "0 clicks by people" in explained.body.decode()
    exported = (await server.expect(200, "GET", "/api/users/fay")).read(Json)
    assert exported["deliveries"][0]["engagement"]["machineClicks"] == 1
    await server.expect(204, "DELETE", "/api/users/fay")
    await server.expect(302, "GET", urlsplit(link).path, token=None)
    events = (await server.expect(200, "GET", "/api/provider-events?channel=email")).read(Json)["items"]
    assert [one for one in events if one["deliveryId"] == delivery["id"]] == []


async def test_an_unknown_mailbox_is_not_written_to_again(server: TidingsServer, mailbox: tuple[Mailbox, int]) -> None:
    await server.expect(201, "PUT", "/api/users/cleo", {"email": "unknown@example.org"})
    assert await notify(server, "cleo") == {"gone": 1}
    assert await notify(server, "cleo") == {"skipped": 1}
    [suppression] = (await server.expect(200, "GET", "/api/suppressions")).read(Json)["items"]
    assert (suppression["address"], suppression["reason"]) == ("unknown@example.org", "hard_bounce")
    await server.expect(200, "PUT", "/api/users/cleo", {"email": "cleo@example.org"})
    assert await notify(server, "cleo") == {"delivered": 1}


async def test_a_test_message_is_sent_to_any_address(server: TidingsServer, mailbox: tuple[Mailbox, int]) -> None:
    sent = (await server.expect(200, "POST", "/api/channels/email/test", {"address": "dan@example.org"})).read(Json)
    assert sent["outcome"] == "delivered"
    assert len(mailbox[0].find("dan@example.org")) == 1
    wrong = await server.expect(422, "POST", "/api/channels/email/test", {"address": "no address"})
    assert wrong.read(Json)["errors"][0]["field"] == "address"


async def test_doctor_sends_a_test_message_and_shows_the_answer(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    for address, code, outcome in (("eli@example.org", 0, "delivered"), ("unknown@example.org", 1, "gone")):
        command = (sys.executable, "-m", "tidings.cli", "doctor", "--json", "--send", "email", address)
        process = await asyncio.create_subprocess_exec(
            *command, env=server.environment, cwd=server.data_dir, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(120):
            out, _ = await process.communicate()
        assert (process.returncode, json.loads(out)["outcome"]) == (code, outcome)
    assert len(mailbox[0].find("eli@example.org")) == 1


async def test_c60_the_calendar_of_an_event_moves_and_cancels_with_it(
    server: TidingsServer, mailbox: tuple[Mailbox, int]
) -> None:
    await server.expect(201, "PUT", "/api/users/eve", {"email": "eve@example.org", "city": "Basel"})
    draft = {"title": "Late Concert", "startDate": "2030-06-21T19:00:00+02:00", "venue": "Foyer", "city": "Basel"}
    event = (await server.expect(201, "POST", "/api/events", draft)).read(Json)["id"]
    await server.expect(201, "POST", f"/api/events/{event}/tickets", {"userId": "eve"})
    calls: list[tuple[str, str, Json | None]] = [
        ("POST", f"/api/events/{event}/publish", None),
        ("PATCH", f"/api/events/{event}", {"startDate": "2030-06-21T21:30:00+02:00"}),
        ("POST", f"/api/events/{event}/cancel", None),
    ]
    for call in calls:
        changed = (await server.expect(200, *call)).read(Json)
        progress = await server.wait_until_finished(changed["notification"]["id"])
        assert progress.by_state == {"delivered": 1}
    messages = mailbox[0].find("eve@example.org")
    calendars = [read_calendar(message) for message in messages]
    assert [calendar["METHOD"] for calendar in calendars] == ["PUBLISH", "PUBLISH", "CANCEL"]
    entries = [calendar.walk("VEVENT")[0] for calendar in calendars]
    assert {str(entry["UID"]) for entry in entries} == {f"event-{event}@tidings"}
    sequences = [int(str(entry["SEQUENCE"])) for entry in entries]
    assert sequences == sorted(set(sequences)), "each change is newer than the one before"
    assert [entry.decoded("DTSTART").isoformat() for entry in entries] == [
        "2030-06-21T17:00:00+00:00",
        "2030-06-21T19:30:00+00:00",
        "2030-06-21T19:30:00+00:00",
    ]
    assert [str(entry["STATUS"]) for entry in entries] == ["CONFIRMED", "CONFIRMED", "CANCELLED"]
    assert str(entries[0]["LOCATION"]) == "Foyer, Basel"
    assert str(entries[0]["URL"]).endswith(f"/events/{event}")
    assert len({message["References"] for message in messages} - {None}) == 1, "one thread"
    assert len({message["Message-ID"] for message in messages}) == 3


def read_calendar(message: EmailMessage) -> icalendar.Component:
    [attachment] = message.iter_attachments()
    assert (attachment.get_content_type(), attachment.get_filename()) == ("text/calendar", "event.ics")
    return icalendar.Calendar.from_ical(attachment.get_content())
