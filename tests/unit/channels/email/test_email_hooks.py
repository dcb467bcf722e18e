"""Calls of e-mail providers: what verifies them, and the events that they contain."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from tidings.channels.email.hooks.reader import EmailHooks, list_hooks
from tidings.channels.email.settings import EmailSettings
from tidings.channels.plugin import HookReading, HookRequest
from tidings.errors import NotFound, Unauthenticated, ValidationFailed
from tidings.model.receipt import EventCause, ReceiptStatus
from tidings.testing.clock import START as NOW

OWN = "01a20320-a200-7000-8000-000000000001"
SECRET = "a secret of sixteen characters"
TOPIC = "arn:aws:sns:eu-central-1:1:mail"
SETTINGS = EmailSettings(
    hook_secret=SecretStr(SECRET), mailgun_signing_key=SecretStr("mailgun key"), ses_topics=(TOPIC,)
)
Json = dict[str, Any]


async def read(
    provider: str,
    body: bytes,
    settings: EmailSettings = SETTINGS,
    hooks: EmailHooks | None = None,
    *,
    authorization: str | None = None,
    signature: str | None = None,
) -> HookReading:
    headers = {"authorization": authorization, "x-tidings-signature": signature}
    given = {name: value for name, value in headers.items() if value is not None}
    request = HookRequest(provider, f"/hooks/email/{provider}", "", given, body, NOW)
    return await (hooks or EmailHooks(settings)).read(request)


def build_basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"tidings:{password}".encode()).decode()


def build_signature(body: bytes) -> str:
    return "sha256=" + hmac.digest(SECRET.encode(), body, hashlib.sha256).hex()


def test_a_hook_without_its_secret_is_off() -> None:
    assert list_hooks(EmailSettings()) == []
    assert list_hooks(SETTINGS) == ["dsn", "generic", "postmark", "mailgun", "ses"]


@pytest.mark.parametrize("provider", ["generic", "postmark", "dsn", "mailgun", "unknown"])
async def test_a_call_of_a_hook_that_is_off_is_refused(provider: str) -> None:
    with pytest.raises(NotFound):
        await read(provider, b"{}", EmailSettings(), authorization=f"Bearer {SECRET}")


GENERIC = json.dumps({"events": [{"type": "delivered", "recipient": "ana@example.org", "messageId": "m1"}]}).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {SECRET}"},
        {"authorization": build_basic(SECRET)},
        {"signature": build_signature(GENERIC)},
    ],
)
async def test_c50_a_call_with_the_secret_is_read(headers: dict[str, Any]) -> None:
    [event] = (await read("generic", GENERIC, **headers)).events
    assert (event.status, event.recipient, event.message_id) == (ReceiptStatus.DELIVERED, "ana@example.org", "m1")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {SECRET}x"},
        {"authorization": build_basic("wrong")},
        {"authorization": "Basic ***"},
        {"authorization": SECRET},
        # the signature covers the bytes: a blank more is another body
        {"signature": build_signature(GENERIC + b" ")},
        # a wrong signature is not made good by the secret
        {"signature": "sha256=0", "authorization": f"Bearer {SECRET}"},
    ],
)
async def test_c50_a_call_without_the_secret_is_refused(headers: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await read("generic", GENERIC, **headers)


@pytest.mark.parametrize(
    ("fields", "status", "cause"),
    [
        ({"type": "sent"}, ReceiptStatus.SENT, EventCause.NONE),
        ({"type": "deferred"}, None, EventCause.NONE),
        ({"type": "failed"}, ReceiptStatus.FAILED, EventCause.NONE),
        ({"type": "bounced", "code": "5.1.1"}, ReceiptStatus.BOUNCED, EventCause.HARD_BOUNCE),
        ({"type": "bounced", "code": "5.2.2"}, ReceiptStatus.BOUNCED, EventCause.SOFT_BOUNCE),
        ({"type": "complained"}, ReceiptStatus.COMPLAINED, EventCause.COMPLAINT),
        ({"type": "unsubscribed"}, None, EventCause.UNSUBSCRIBE),
    ],
)
async def test_the_generic_format(fields: Json, status: ReceiptStatus | None, cause: EventCause) -> None:
    event = {"recipient": "Ana <Ana@Example.org>", "messageId": f"<{OWN}@jazz.example>", **fields}
    body = json.dumps({"events": [event]}).encode()
    [found] = (await read("generic", body, authorization=f"Bearer {SECRET}")).events
    assert (found.status, found.cause, found.recipient, found.delivery_id) == (status, cause, "Ana@example.org", OWN)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[]", "is not what this provider sends"),
        (b'{"events":[{"type":"opened","recipient":"a@example.org"}]}', "is not what this provider sends"),
        (b'{"events":[{"type":"sent","recipient":"nobody"}]}', r"events\[0\].recipient"),
        (b'{"events":[{"type":"sent","recipient":"a@example.org","deliveryId":"7"}]}', r"events\[0\].deliveryId"),
        (b"\xff", "is not what this provider sends"),
    ],
)
async def test_a_malformed_body_names_what_is_wrong(body: bytes, field: str) -> None:
    with pytest.raises(ValidationFailed, match=field):
        await read("generic", body, authorization=f"Bearer {SECRET}")


@pytest.mark.parametrize(
    ("webhook", "status", "cause"),
    [
        ({"RecordType": "Delivery", "Recipient": "ana@example.org"}, ReceiptStatus.DELIVERED, EventCause.NONE),
        (
            {"RecordType": "Bounce", "Type": "HardBounce", "Details": "smtp;550 5.1.1 user unknown"},
            ReceiptStatus.BOUNCED,
            EventCause.HARD_BOUNCE,
        ),
        ({"RecordType": "Bounce", "Type": "HardBounce"}, ReceiptStatus.BOUNCED, EventCause.HARD_BOUNCE),
        (
            {"RecordType": "Bounce", "Type": "HardBounce", "Details": "smtp;550 5.7.1 blocked"},
            ReceiptStatus.BOUNCED,
            EventCause.POLICY_BOUNCE,
        ),
        (
            {"RecordType": "Bounce", "Type": "SoftBounce", "Details": "smtp;452 4.2.2 over quota"},
            ReceiptStatus.BOUNCED,
            EventCause.SOFT_BOUNCE,
        ),
        ({"RecordType": "Bounce", "Type": "AutoResponder"}, None, EventCause.AUTO_REPLY),
        ({"RecordType": "Bounce", "Type": "ChallengeVerification"}, None, EventCause.AUTO_REPLY),
        ({"RecordType": "SpamComplaint"}, ReceiptStatus.COMPLAINED, EventCause.COMPLAINT),
        (
            {
                "RecordType": "SubscriptionChange",
                "Recipient": "ana@example.org",
                "SuppressSending": True,
                "SuppressionReason": "ManualSuppression",
            },
            None,
            EventCause.UNSUBSCRIBE,
        ),
    ],
)
async def test_c55_webhooks_of_postmark(webhook: Json, status: ReceiptStatus | None, cause: EventCause) -> None:
    common = {"ID": 7, "MessageID": "m1", "Metadata": {"delivery-id": OWN}, "BouncedAt": "2026-11-22T12:00:00Z"}
    body = json.dumps({"Email": "ana@example.org", **common, **webhook}).encode()
    [event] = (await read("postmark", body, authorization=build_basic(SECRET))).events
    assert (event.status, event.cause, event.recipient, event.delivery_id, event.message_id) == (
        status,
        cause,
        "ana@example.org",
        OWN,
        "m1",
    )
    assert event.occurred_at == datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_other_webhooks_of_postmark_say_nothing() -> None:
    body = b'{"RecordType": "Open", "MessageID": "m1"}'
    assert (await read("postmark", body, authorization=build_basic(SECRET))).events == []


def build_mailgun(key: str = "mailgun key", at: datetime = NOW, **event: Any) -> bytes:
    timestamp = str(int(at.timestamp()))
    signature = hmac.digest(key.encode(), f"{timestamp}token".encode(), hashlib.sha256).hex()
    data = {
        "id": "e1",
        "event": "delivered",
        "timestamp": NOW.timestamp(),
        "recipient": "ana@example.org",
        "message": {"headers": {"message-id": f"{OWN}@jazz.example"}},
        **event,
    }
    signed = {"timestamp": timestamp, "token": "token", "signature": signature}
    return json.dumps({"signature": signed, "event-data": data}).encode()


@pytest.mark.parametrize(
    ("event", "status", "cause"),
    [
        ({"event": "accepted"}, ReceiptStatus.SENT, EventCause.NONE),
        ({"event": "delivered"}, ReceiptStatus.DELIVERED, EventCause.NONE),
        (
            {"event": "failed", "severity": "permanent", "delivery-status": {"code": 550, "enhanced-code": "5.1.1"}},
            ReceiptStatus.BOUNCED,
            EventCause.HARD_BOUNCE,
        ),
        (
            {"event": "failed", "severity": "permanent", "reason": "suppress-bounce", "delivery-status": {"code": 605}},
            ReceiptStatus.BOUNCED,
            EventCause.HARD_BOUNCE,
        ),
        (
            {"event": "failed", "severity": "permanent", "delivery-status": {"code": 552, "message": "5.2.2 full"}},
            ReceiptStatus.BOUNCED,
            EventCause.SOFT_BOUNCE,
        ),
        ({"event": "failed", "severity": "temporary"}, None, EventCause.NONE),
        ({"event": "complained"}, ReceiptStatus.COMPLAINED, EventCause.COMPLAINT),
        ({"event": "unsubscribed"}, None, EventCause.UNSUBSCRIBE),
    ],
)
async def test_c55_webhooks_of_mailgun(event: Json, status: ReceiptStatus | None, cause: EventCause) -> None:
    [found] = (await read("mailgun", build_mailgun(**event))).events
    assert (found.status, found.cause, found.delivery_id) == (status, cause, OWN)
    assert (await read("mailgun", build_mailgun(event="opened"))).events == []


@pytest.mark.parametrize("body", [build_mailgun("another key"), build_mailgun(at=NOW - timedelta(days=2))])
async def test_c50_a_webhook_of_mailgun_with_another_key_or_of_last_week_is_refused(body: bytes) -> None:
    with pytest.raises(Unauthenticated):
        await read("mailgun", body)


KEY = rsa.generate_private_key(65537, 2048)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
CERTIFICATE = (
    x509.CertificateBuilder(NAME, NAME, KEY.public_key(), 1, NOW, NOW + timedelta(days=1))
    .sign(KEY, hashes.SHA256())
    .public_bytes(serialization.Encoding.PEM)
)
CERTIFICATE_URL = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-1.pem"


def build_sns(message: Json | str, version: str = "1", signed: tuple[str, ...] = (), **fields: str) -> bytes:
    text = message if isinstance(message, str) else json.dumps(message)
    envelope = {
        "Type": "Notification",
        "MessageId": "sns-1",
        "TopicArn": TOPIC,
        "Message": text,
        "Timestamp": "2026-11-22T12:00:00.000Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        **fields,
    }
    names = signed or ("Message", "MessageId", "Timestamp", "TopicArn", "Type")
    signature = KEY.sign(
        "".join(f"{name}\n{envelope[name]}\n" for name in names).encode(),
        padding.PKCS1v15(),
        hashes.SHA256() if version == "2" else hashes.SHA1(),
    )
    return json.dumps(envelope | {"Signature": base64.b64encode(signature).decode()}).encode()


def build_mail(**event: Any) -> Json:
    headers = [{"name": "Message-ID", "value": f"<{OWN}@jazz.example>"}]
    return {"mail": {"messageId": "0100ses", "destination": ["ana@example.org"], "headers": headers}, **event}


def build_bounce(kind: str, subtype: str = "General", **recipient: str) -> Json:
    bounced = [{"emailAddress": "ana@example.org", **recipient}]
    bounce = {"bounceType": kind, "bounceSubType": subtype, "bouncedRecipients": bounced}
    return build_mail(notificationType="Bounce", bounce=bounce)


def make_hooks(fetched: list[str] | None = None, settings: EmailSettings = SETTINGS) -> EmailHooks:
    def fetch(url: str) -> bytes:
        if fetched is not None:
            fetched.append(url)
        return CERTIFICATE

    return EmailHooks(settings, fetch)


@pytest.mark.parametrize(
    ("message", "status", "cause"),
    [
        (
            build_bounce("Permanent", status="5.1.1", diagnosticCode="smtp; 550 5.1.1"),
            ReceiptStatus.BOUNCED,
            EventCause.HARD_BOUNCE,
        ),
        (build_bounce("Permanent", "NoEmail"), ReceiptStatus.BOUNCED, EventCause.HARD_BOUNCE),
        (build_bounce("Permanent", status="5.7.1"), ReceiptStatus.BOUNCED, EventCause.POLICY_BOUNCE),
        (build_bounce("Transient", "MailboxFull", status="5.2.2"), ReceiptStatus.BOUNCED, EventCause.SOFT_BOUNCE),
        (build_bounce("Transient", status="5.1.1"), ReceiptStatus.BOUNCED, EventCause.SOFT_BOUNCE),
        (build_bounce("Transient"), None, EventCause.AUTO_REPLY),
        (
            build_mail(
                eventType="Complaint", complaint={"complainedRecipients": [{"emailAddress": "ana@example.org"}]}
            ),
            ReceiptStatus.COMPLAINED,
            EventCause.COMPLAINT,
        ),
        (
            build_mail(eventType="Delivery", delivery={"recipients": ["ana@example.org"]}),
            ReceiptStatus.DELIVERED,
            EventCause.NONE,
        ),
        (build_mail(eventType="Send"), ReceiptStatus.SENT, EventCause.NONE),
        (build_mail(eventType="Reject"), ReceiptStatus.FAILED, EventCause.NONE),
    ],
)
async def test_c55_events_of_ses(message: Json, status: ReceiptStatus | None, cause: EventCause) -> None:
    [event] = (await read("ses", build_sns(message), hooks=make_hooks())).events
    assert (event.status, event.cause, event.recipient) == (status, cause, "ana@example.org")
    assert (event.message_id, event.delivery_id) == ("0100ses", OWN)


async def test_c54_a_bounce_of_two_recipients_has_two_events() -> None:
    message = build_bounce("Permanent", status="5.1.1")
    message["bounce"]["bouncedRecipients"].append({"emailAddress": "ben@example.org", "status": "4.2.2"})
    events = (await read("ses", build_sns(message), hooks=make_hooks())).events
    assert [(event.recipient, event.cause) for event in events] == [
        ("ana@example.org", EventCause.HARD_BOUNCE),
        ("ben@example.org", EventCause.SOFT_BOUNCE),
    ]


async def test_c50_the_certificate_of_sns_is_loaded_once() -> None:
    fetched: list[str] = []
    hooks = make_hooks(fetched)
    for version in ("1", "2"):
        assert (await read("ses", build_sns(build_mail(eventType="Send"), version), hooks=hooks)).events
    assert fetched == [CERTIFICATE_URL]


@pytest.mark.parametrize(
    "body",
    [
        build_sns(build_mail(eventType="Send")).replace(b"0100ses", b"0100sex"),
        build_sns("{}", TopicArn="arn:aws:sns:eu-central-1:2:foreign"),
        build_sns("{}", SigningCertURL="https://sns.eu-central-1.amazonaws.com.evil.example/a.pem"),
        build_sns("{}", SigningCertURL="http://sns.eu-central-1.amazonaws.com/a.pem"),
        build_sns("{}", SigningCertURL="https://user@sns.eu-central-1.amazonaws.com/a.pem"),
        build_sns("{}", SigningCertURL="https://sns.eu-central-1.amazonaws.com/a.txt"),
        build_sns("{}", SigningCertURL="https://["),
    ],
    # the signatures differ in each process
    ids=["body", "topic", "host", "scheme", "user", "path", "malformed"],
)
async def test_c50_an_envelope_of_another_topic_key_or_host_is_refused(body: bytes) -> None:
    with pytest.raises(Unauthenticated):
        await read("ses", body, hooks=make_hooks())


async def test_a_subscription_to_confirm_is_reported() -> None:
    signed = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    url = "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    fields = {"Type": "SubscriptionConfirmation", "Token": "t", "SubscribeURL": url}
    reading = await read("ses", build_sns("confirm", signed=signed, **fields), hooks=make_hooks())
    assert reading.events == []
    assert reading.notice is not None
    assert url in reading.notice
    foreign = build_sns("confirm", signed=signed, **(fields | {"SubscribeURL": "https://evil.example/"}))
    with pytest.raises(Unauthenticated):
        await read("ses", foreign, hooks=make_hooks())
