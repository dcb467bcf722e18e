"""Messages that mail servers return."""

from datetime import UTC, datetime
from email.message import EmailMessage

import pytest

from tidings.channels.email.hooks.dsn import read_events
from tidings.model.receipt import EventCause, ReceiptStatus
from tidings.testing.clock import START as NOW

OWN = "01a20320-a200-7000-8000-000000000001"
DSN = """From: MAILER-DAEMON@mx.example
To: news@jazz.example
Subject: Undelivered Mail Returned to Sender
Date: Sun, 22 Nov 2026 12:00:00 +0100
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain

I'm sorry to have to inform you …
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example

{recipients}
--b
Content-Type: {original}

From: news@jazz.example
To: ana@example.org
Message-ID: <{own}@jazz.example>
Subject: Doors open

--b--
"""
FAILED = """Final-Recipient: rfc822; forwarded@elsewhere.example
Original-Recipient: rfc822;Ana@Example.org
Action: failed
Status: {status}
Diagnostic-Code: smtp; 550 {status} no
"""


def build_dsn(recipients: str, original: str = "message/rfc822") -> bytes:
    return DSN.format(recipients=recipients, original=original, own=OWN).encode()


@pytest.mark.parametrize("original", ["message/rfc822", "text/rfc822-headers"])
def test_a_notification_names_recipient_code_and_delivery(original: str) -> None:
    [event] = read_events(build_dsn(FAILED.format(status="5.1.1"), original), NOW)
    assert (event.recipient, event.status, event.cause) == (
        "Ana@example.org",
        ReceiptStatus.BOUNCED,
        EventCause.HARD_BOUNCE,
    )
    assert (event.code, event.delivery_id, event.message_id) == ("5.1.1", OWN, f"<{OWN}@jazz.example>")
    assert event.occurred_at == datetime(2026, 11, 22, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ("4.4.7", EventCause.SOFT_BOUNCE),
        ("5.2.2", EventCause.SOFT_BOUNCE),
        ("5.7.1", EventCause.POLICY_BOUNCE),
        ("5.1.10", EventCause.HARD_BOUNCE),
    ],
)
def test_c55_the_code_of_a_notification_decides(status: str, cause: EventCause) -> None:
    [event] = read_events(build_dsn(FAILED.format(status=status)), NOW)
    assert event.cause is cause


@pytest.mark.parametrize(
    ("action", "status"),
    [("delayed", None), ("delivered", ReceiptStatus.DELIVERED), ("relayed", ReceiptStatus.SENT)],
)
def test_c55_a_delayed_message_has_not_bounced(action: str, status: ReceiptStatus | None) -> None:
    fields = f"Final-Recipient: rfc822; ana@example.org\nAction: {action}\nStatus: 4.0.0\n"
    [event] = read_events(build_dsn(fields), NOW)
    assert (event.status, event.cause) == (status, EventCause.NONE)


def test_c54_each_recipient_of_a_notification_has_an_event_of_its_own() -> None:
    fields = (
        "Final-Recipient: rfc822; a@example.org\nAction: failed\nStatus: 5.1.1\n\n"
        "Final-Recipient: rfc822; b@example.org\nAction: delivered\nStatus: 2.0.0\n"
    )
    events = read_events(build_dsn(fields), NOW)
    assert [(event.recipient, event.cause) for event in events] == [
        ("a@example.org", EventCause.HARD_BOUNCE),
        ("b@example.org", EventCause.NONE),
    ]
    assert len({event.event_id for event in events}) == 2


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (
            {"Auto-Submitted": "auto-replied", "Subject": "Out of office: Doors open"},
            "I am away, user unknown 550 5.1.1",
        ),
        ({"Precedence": "bulk", "Subject": "Vacation"}, "Back on Monday"),
        ({"X-Autoreply": "yes", "Subject": "Abwesenheit"}, "mailbox full"),
        ({"Subject": "Please confirm your message"}, "Challenge: click to deliver your message"),
        ({"Subject": "Undelivered Mail Returned to Sender"}, "550 5.1.1 no such user"),
    ],
)
def test_c55_a_message_without_a_report_is_not_a_bounce(headers: dict[str, str], text: str) -> None:
    message = EmailMessage()
    for name, value in {"From": "Ana <ana@example.org>", "In-Reply-To": f"<{OWN}@jazz.example>", **headers}.items():
        message[name] = value
    message.set_content(text)
    [event] = read_events(message.as_bytes(), NOW)
    assert (event.status, event.cause) == (None, EventCause.AUTO_REPLY)
    assert (event.recipient, event.delivery_id) == ("ana@example.org", OWN)


def test_a_report_that_is_attached_to_an_answer_is_not_a_bounce() -> None:
    outer = EmailMessage()
    outer["From"], outer["Subject"] = "ana@example.org", "Fwd: Undelivered"
    outer.set_content("see below")
    outer.add_attachment(build_dsn(FAILED.format(status="5.1.1")), "application", "octet-stream")
    [event] = read_events(outer.as_bytes(), NOW)
    assert event.cause is EventCause.AUTO_REPLY


def test_a_spam_report_is_a_complaint() -> None:
    report = (
        build_dsn("x")
        .replace(b"report-type=delivery-status", b"report-type=feedback-report")
        .replace(b"message/delivery-status", b"message/feedback-report")
        .replace(b"Reporting-MTA: dns; mx.example", b"Feedback-Type: abuse\nOriginal-Rcpt-To: <ana@example.org>")
    )
    [event] = read_events(report, NOW)
    assert (event.status, event.cause, event.recipient, event.delivery_id) == (
        ReceiptStatus.COMPLAINED,
        EventCause.COMPLAINT,
        "ana@example.org",
        OWN,
    )
    assert read_events(report.replace(b"abuse", b"not-spam"), NOW) == []


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b"Content-Type: multipart/report; boundary=\n\n"])
def test_any_bytes_are_read(body: bytes) -> None:
    assert [event.cause for event in read_events(body, NOW)] == [EventCause.AUTO_REPLY]
