"""The mock mail service: what it takes, what it refuses on request, and what its pages show."""

import asyncio
import json
import smtplib
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from email.message import EmailMessage
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tidings.errors import ConfigError
from tidings.mockmail import MailRule, MockMail, MockMailOptions, SmsRule, spawn
from tidings.mockmail.mailbox import MAX_BYTES, Mailbox, ReceivedMail, parse_mail
from tidings.mockmail.smtp_session import MAX_MESSAGE

Response = tuple[int, dict[str, str], bytes]
OPENER = build_opener(ProxyHandler({}))


@pytest.fixture
async def mail() -> AsyncIterator[MockMail]:
    async with MockMail(MockMailOptions(keep=10), now=lambda: 1_790_000_000.0) as service:
        yield service


def build_message(to: str = "ana@example.org", *, html: str = "<h1>Hi</h1><script>alert(1)</script>") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Shop <news@shop.example>", to, "Grüße <b>& more"
    message.set_content(".hidden dot\nSecond line")
    message.add_alternative(html, subtype="html")
    message.add_attachment(b"BEGIN:VCALENDAR", maintype="text", subtype="calendar", filename='a"b.ics')
    return message


def send(mail: MockMail, message: EmailMessage) -> None:
    url = urlsplit(mail.address.smtp_url)
    assert url.hostname is not None
    assert url.port is not None
    with smtplib.SMTP(url.hostname, url.port, timeout=10) as client:
        client.login("any", "password")
        client.send_message(message)


def call(url: str, method: str = "GET", body: bytes | None = None) -> Response:
    try:
        with OPENER.open(Request(url, body, method=method), timeout=10) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


async def get(mail: MockMail, path: str) -> Response:
    return await asyncio.to_thread(call, mail.address.url + path)


async def send_sms(mail: MockMail, **form: str) -> Response:
    url = f"{mail.address.url}/2010-04-01/Accounts/AC1/Messages.json"
    return await asyncio.to_thread(call, url, "POST", urlencode(form).encode())


async def test_a_mail_is_kept_as_it_was_sent_and_parsed(mail: MockMail) -> None:
    await asyncio.to_thread(send, mail, build_message())
    await mail.wait_for(1, "ANA@example.org")
    [received] = mail.list_mails("ana@example.org")
    assert (received.mail_from, received.recipients) == ("news@shop.example", ("ana@example.org",))
    content = received.content
    assert (content.subject, content.sender) == ("Grüße <b>& more", "Shop <news@shop.example>")
    assert content.text is not None
    assert content.text.splitlines() == [".hidden dot", "Second line"], "transparency dots are removed"
    [attachment] = content.attachments
    assert (attachment.content_type, attachment.content) == ("text/calendar", b"BEGIN:VCALENDAR")


async def test_the_page_lists_mails_and_sms_and_escapes_what_they_contain(mail: MockMail) -> None:
    await asyncio.to_thread(send, mail, build_message())
    status, _, body = await send_sms(mail, To="+15005550100", From="+15005550006", Body="Code <1234>")
    assert (status, json.loads(body)["status"]) == (201, "queued")
    status, headers, page = await get(mail, "/")
    assert status == 200
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    for text in ("Grüße &lt;b&gt;&amp; more", "Code &lt;1234&gt;", "ana@example.org", "+15005550100"):
        assert text in page.decode()
    filtered = (await get(mail, "/?to=ana@example.org"))[2].decode()
    assert "Code" not in filtered
    shown = (await get(mail, "/messages/1?view=text"))[2].decode()
    assert ".hidden dot" in shown
    assert "<script>alert" not in shown
    assert (await get(mail, "/messages/2"))[2].decode().count("Code &lt;1234&gt;") == 2
    assert b"script" in (await get(mail, "/messages/1?view=source"))[2]


async def test_html_is_shown_in_a_frame_that_runs_no_script(mail: MockMail) -> None:
    await asyncio.to_thread(send, mail, build_message())
    page = (await get(mail, "/messages/1"))[2].decode()
    assert 'src="/messages/1/html" sandbox="allow-popups allow-popups-to-escape-sandbox"' in page
    status, headers, html = await get(mail, "/messages/1/html")
    assert status == 200
    assert html.startswith(b"<h1>Hi</h1>")
    policy = headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
    assert "script-src" not in policy
    assert "default-src 'none'" in policy


async def test_attachments_and_sources_are_downloads(mail: MockMail) -> None:
    await asyncio.to_thread(send, mail, build_message())
    status, headers, content = await get(mail, "/messages/1/attachments/1")
    assert (status, content) == (200, b"BEGIN:VCALENDAR")
    assert headers["content-disposition"].startswith("attachment; filename*=UTF-8''a%22")
    assert headers["content-type"] == "application/octet-stream"
    assert (await get(mail, "/messages/1/source"))[2] == mail.list_mails()[0].source
    for path in (
        "/messages/1/attachments/2",
        "/messages/1/attachments/0",
        "/messages/9",
        "/messages/x",
        "/messages/1/x",
    ):
        assert (await get(mail, path))[0] == 404, path


async def test_the_api_lists_newest_first_and_describes_one_message(mail: MockMail) -> None:
    for number in range(3):
        await send_sms(mail, To=f"+1500555010{number}", From="Shop", Body=f"n{number}")
    await asyncio.to_thread(send, mail, build_message())
    listed = json.loads((await get(mail, "/api/messages?limit=2&after=1"))[2])
    assert [one["number"] for one in listed["items"]] == [4, 3]
    assert listed["received"] == 4
    described = json.loads((await get(mail, "/api/messages/4"))[2])
    assert (described["kind"], described["to"], described["receivedAt"]) == (
        "mail",
        ["ana@example.org"],
        "2026-09-21T14:13:20Z",
    )
    assert [one["bytes"] for one in described["attachments"]] == [15]
    assert (await get(mail, "/api/messages?limit=-1"))[0] == 400


async def test_a_refused_recipient_gets_the_reply_and_others_are_accepted(mail: MockMail) -> None:
    mail.set_rules(MailRule(to="full@example.org", reply="452 4.2.2 mailbox full", times=1))
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="mailbox full"):
        await asyncio.to_thread(send, mail, build_message("full@example.org"))
    await asyncio.to_thread(send, mail, build_message())
    await asyncio.to_thread(send, mail, build_message("full@example.org"))
    assert [one.recipients for one in mail.list_mails()] == [("ana@example.org",), ("full@example.org",)]


async def test_a_message_can_be_refused_lost_or_never_answered(mail: MockMail) -> None:
    mail.set_rules(MailRule(reply="554 5.7.1 rejected", stage="message"))
    with pytest.raises(smtplib.SMTPDataError, match="rejected"):
        await asyncio.to_thread(send, mail, build_message())
    assert mail.received == 0
    mail.set_rules(MailRule(lost=True))
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
        await asyncio.to_thread(send, mail, build_message())
    assert mail.received == 1, "it was accepted before the connection ended"
    mail.set_rules(MailRule(hang=True))
    url = urlsplit(mail.address.smtp_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nhello\r\n.\r\n")
    await reader.readuntil(b"354 ")
    await reader.readline()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.readline()
    writer.close()
    assert mail.received == 1


async def test_pipelined_commands_are_answered_in_order_and_bad_ones_end_nothing(mail: MockMail) -> None:
    url = urlsplit(mail.address.smtp_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    commands = (
        b"HELO x\r\nDATA\r\nRCPT TO:<a@b>\r\nMAIL FROM:x\r\nMAIL FROM:<a@b> SIZE=9\r\nMAIL FROM:<a@b>\r\nDATA\r\n"
        b"RCPT TO:<>\r\nVRFY a\r\nAUTH CRAM-MD5\r\nRSET\r\nNOOP\r\nQUIT\r\n"
    )
    writer.write(commands)
    codes = [line[:3].decode() for line in (await reader.read()).splitlines()]
    assert codes == ["220", "250", "503", "503", "501", "250", "503", "554", "501", "502", "504", "250", "250", "221"]
    writer.close()


async def test_a_message_that_is_too_large_is_read_and_refused(mail: MockMail) -> None:
    url = urlsplit(mail.address.smtp_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    line = b"x" * 60_000 + b"\r\n"
    for _ in range(MAX_MESSAGE // len(line) + 1):
        writer.write(line)
        await writer.drain()
    writer.write(b".\r\nQUIT\r\n")
    assert b"\r\n552 5.3.4 " in await reader.read()
    assert mail.received == 0
    writer.close()


async def test_a_line_without_an_end_ends_its_session_only(mail: MockMail) -> None:
    url = urlsplit(mail.address.smtp_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"x" * 300_000)
    # the service closes without reading the rest, which may reset the connection
    with suppress(ConnectionResetError):
        assert (await reader.read()).endswith(b"500 5.5.2 line too long\r\n")
    writer.close()
    await asyncio.to_thread(send, mail, build_message())
    assert mail.received == 1


async def test_an_sms_can_be_refused_lost_or_limited(mail: MockMail) -> None:
    mail.set_rules(
        SmsRule(to="+1", status=400, code=21610), SmsRule(to="+2", lost=True), SmsRule(status=429, retry_after=7)
    )
    status, _, body = await send_sms(mail, To="+1", From="x", Body="hi")
    assert (status, json.loads(body)["code"]) == (400, 21610)
    with pytest.raises((ConnectionError, OSError)):
        await send_sms(mail, To="+2", From="x", Body="hi")
    assert [one.text for one in mail.list_texts("+2")] == ["hi"]
    status, headers, _ = await send_sms(mail, To="+3", From="x", Body="hi")
    assert (status, headers["retry-after"]) == (429, "7")
    assert (await send_sms(mail, To="+3"))[0] == 400


async def test_rules_are_set_and_removed_over_http(mail: MockMail) -> None:
    url = f"{mail.address.url}/control/behaviour"
    rules = {"mail": [{"reply": "550 5.1.1 no such user"}], "sms": []}
    assert (await asyncio.to_thread(call, url, "PUT", json.dumps(rules).encode()))[0] == 204
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await asyncio.to_thread(send, mail, build_message())
    assert (await asyncio.to_thread(call, url, "DELETE"))[0] == 204
    await asyncio.to_thread(send, mail, build_message())
    wrong = {"mail": [{"reply": "550 x\r\n250 OK"}]}
    status, _, body = await asyncio.to_thread(call, url, "PUT", json.dumps(wrong).encode())
    assert (status, "reply" in body.decode()) == (400, True)
    assert (await asyncio.to_thread(call, f"{mail.address.url}/control/reset", "POST"))[0] == 204
    assert mail.list_mails() == []


def test_the_mailbox_is_bounded_in_messages_and_bytes() -> None:
    mailbox = Mailbox(3)
    for number in range(1, 6):
        mailbox.add(ReceivedMail(number, 0.0, "a@b", ("c@d",), b"x"))
    assert [one.number for one in mailbox.list_newest()] == [5, 4, 3]
    mailbox.add(ReceivedMail(6, 0.0, "a@b", ("c@d",), b"x" * MAX_BYTES))
    assert [one.number for one in mailbox.list_newest()] == [6]


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"\xff\xfe\x00",
        b"Subject: =?no-such-charset?b?AAAA?=\r\n\r\nx",
        b"Subject: =?utf-8?b?A?=\r\nContent-Type: text/plain; charset=nowhere\r\n\r\n\xff",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/html\r\n\r\n<p>",
        b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
    ],
)
def test_a_malformed_mail_is_shown_as_far_as_it_can_be_read(source: bytes) -> None:
    content = parse_mail(source)
    assert "\n" not in content.subject
    assert content.html is not None or content.text is not None


async def test_an_address_in_use_is_named(mail: MockMail) -> None:
    port = urlsplit(mail.address.smtp_url).port
    assert port is not None
    with pytest.raises(ConfigError, match=rf"smtp-port: 127.0.0.1:{port} cannot be used"):
        await MockMail(MockMailOptions(smtp_port=port)).__aenter__()


async def test_a_spawned_service_ends_with_the_block() -> None:
    async with spawn() as address:
        assert (await asyncio.to_thread(call, f"{address.url}/healthz"))[0] == 200
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(call, f"{address.url}/healthz")


async def test_the_command_prints_the_settings_that_send_to_it() -> None:
    command = [
        sys.executable,
        "-m",
        "tidings.cli",
        "mock-mail",
        "--smtp-port=0",
        "--http-port=0",
        "--until-stdin-closes",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    for text in ("http://127.0.0.1:", "TIDINGS_SMTP_URL='smtp://127.0.0.1:", "TIDINGS_SMS_URL='http://AC000"):
        assert text in out.decode()
