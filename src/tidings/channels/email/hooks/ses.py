"""Amazon SES over SNS: the signature of the SNS envelope, and the events inside. Pure, except for the certificate.

SNS signs with a key whose certificate is at a URL of the envelope. Everybody with an AWS account can have a topic, so
the topic must be one of the configured ones, too.
"""

import base64
import binascii
import re
import ssl
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import load_pem_x509_certificate

from tidings.channels.email.hooks.bounce_policy import classify_bounce, find_status_code
from tidings.channels.email.hooks.fields import decode_body, parse_delivery_id, parse_instant, parse_recipient
from tidings.errors import Unauthenticated
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus

#: hosts of certificates and of subscriptions
_HOST: Final = re.compile(r"sns\.[a-z0-9-]{3,40}\.amazonaws\.com(\.cn)?")
#: bytes of a certificate that are read
_MAX_CERTIFICATE: Final = 64 * 1024
_NOTIFICATION: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_CONFIRMATION: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
#: subtypes of permanent bounces that are about the address, whatever the code
_UNKNOWN_ADDRESS: Final = frozenset({"NoEmail", "Suppressed", "OnAccountSuppressionList"})


class Envelope(msgspec.Struct, frozen=True):
    """What SNS posts. The names are those of SNS."""

    kind: str = msgspec.field(name="Type")
    message_id: str = msgspec.field(name="MessageId")
    topic: str = msgspec.field(name="TopicArn")
    message: str = msgspec.field(name="Message")
    timestamp: str = msgspec.field(name="Timestamp")
    signature: str = msgspec.field(name="Signature")
    certificate_url: str = msgspec.field(name="SigningCertURL")
    version: str = msgspec.field(name="SignatureVersion", default="1")
    subject: str | None = msgspec.field(name="Subject", default=None)
    subscribe_url: str | None = msgspec.field(name="SubscribeURL", default=None)
    token: str | None = msgspec.field(name="Token", default=None)


def parse_envelope(body: bytes, topics: Sequence[str]) -> Envelope:
    """Return the envelope of a call, not verified yet. Raises Unauthenticated for another topic or a foreign URL."""
    envelope = decode_body(body, Envelope)
    if envelope.topic not in topics:
        raise Unauthenticated("the topic of the hook is not one of TIDINGS_EMAIL__SES_TOPICS")
    if not _is_sns_url(envelope.certificate_url) or not urlsplit(envelope.certificate_url).path.endswith(".pem"):
        raise Unauthenticated("the certificate of the hook is not at SNS")
    return envelope


def verify_envelope(envelope: Envelope, certificate: bytes) -> None:
    """Verify the signature of an envelope. certificate: PEM, from its URL. Raises Unauthenticated."""
    try:
        key = load_pem_x509_certificate(certificate).public_key()
        signature = base64.b64decode(envelope.signature, validate=True)
    except (ValueError, binascii.Error):
        raise Unauthenticated("the certificate or the signature of the hook is invalid") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise Unauthenticated("the certificate of the hook has no RSA key")
    # version 1 is SHA-1, which SNS still uses unless the topic is configured otherwise
    digest = SHA256() if envelope.version == "2" else SHA1()  # noqa: S303
    try:
        key.verify(signature, _build_signed_text(envelope), padding.PKCS1v15(), digest)
    except InvalidSignature:
        raise Unauthenticated("the signature of the hook is invalid") from None


def fetch_certificate(url: str) -> bytes:
    """Return the certificate at a URL that `parse_envelope` has checked. Blocks. Raises Unauthenticated if it fails."""
    try:
        with urllib.request.urlopen(url, timeout=10, context=ssl.create_default_context()) as response:  # noqa: S310
            body: bytes = response.read(_MAX_CERTIFICATE)
            return body
    except OSError as error:
        raise Unauthenticated(f"the certificate of the hook could not be loaded: {error}") from error


def describe_confirmation(envelope: Envelope) -> str | None:
    """Return what an operator must do for a new subscription, None for another kind of envelope."""
    if envelope.kind != "SubscriptionConfirmation":
        return None
    if envelope.subscribe_url is None or not _is_sns_url(envelope.subscribe_url):
        raise Unauthenticated("the confirmation of the hook is not at SNS")
    return f"SNS asks to confirm the subscription of {envelope.topic}: open {envelope.subscribe_url} within three days"


class _Recipient(msgspec.Struct, frozen=True, rename="camel"):
    email_address: str
    status: str | None = None
    diagnostic_code: str | None = None


class _Bounce(msgspec.Struct, frozen=True, rename="camel"):
    bounce_type: str = ""
    bounce_sub_type: str = ""
    bounced_recipients: list[_Recipient] = []
    timestamp: str | None = None


class _Complaint(msgspec.Struct, frozen=True, rename="camel"):
    complained_recipients: list[_Recipient] = []
    timestamp: str | None = None
    complaint_feedback_type: str | None = None


class _Delivery(msgspec.Struct, frozen=True, rename="camel"):
    recipients: list[str] = []
    timestamp: str | None = None


class _Header(msgspec.Struct, frozen=True):
    name: str = ""
    value: str = ""


class _Mail(msgspec.Struct, frozen=True, rename="camel"):
    #: SES's own id
    message_id: str
    destination: list[str] = []
    headers: list[_Header] = []


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    mail: _Mail
    notification_type: str | None = None
    event_type: str | None = None
    bounce: _Bounce = _Bounce()
    complaint: _Complaint = _Complaint()
    delivery: _Delivery = _Delivery()


def read_events(envelope: Envelope, now: datetime) -> list[ProviderEvent]:
    """Return an event per recipient of a verified notification. Raises ValidationFailed."""
    if envelope.kind != "Notification":
        return []
    event = decode_body(envelope.message.encode(), _Event)
    found: list[tuple[str, ReceiptStatus | None, EventCause, str | None, str]] = []
    at: str | None = None
    match event.notification_type or event.event_type:
        case "Bounce":
            at = event.bounce.timestamp
            for recipient in event.bounce.bounced_recipients:
                cause = _classify(event.bounce, recipient)
                status = None if cause is EventCause.AUTO_REPLY else ReceiptStatus.BOUNCED
                text = recipient.diagnostic_code or ""
                found.append((recipient.email_address, status, cause, find_status_code(recipient.status, text), text))
        case "Complaint" if event.complaint.complaint_feedback_type != "not-spam":
            at = event.complaint.timestamp
            for recipient in event.complaint.complained_recipients:
                why = event.complaint.complaint_feedback_type
                found.append((recipient.email_address, ReceiptStatus.COMPLAINED, EventCause.COMPLAINT, why, why or ""))
        case "Delivery":
            at = event.delivery.timestamp
            found += [(one, ReceiptStatus.DELIVERED, EventCause.NONE, None, "") for one in event.delivery.recipients]
        case "Send":
            found += [(one, ReceiptStatus.SENT, EventCause.NONE, None, "") for one in event.mail.destination]
        case "Reject":
            found += [(one, ReceiptStatus.FAILED, EventCause.NONE, None, "") for one in event.mail.destination]
    own = next((one.value for one in event.mail.headers if one.name.lower() == "message-id"), None)
    return [
        ProviderEvent(
            "email",
            "ses",
            f"{envelope.message_id}\n{address}",
            parse_instant(at or envelope.timestamp, now),
            status,
            cause,
            event.mail.message_id,
            parse_delivery_id(own),
            parse_recipient(address),
            code=code,
            detail=detail,
        )
        for address, status, cause, code, detail in found
    ]


def _classify(bounce: _Bounce, recipient: _Recipient) -> EventCause:
    text = recipient.diagnostic_code or ""
    if bounce.bounce_type == "Permanent":
        if bounce.bounce_sub_type in _UNKNOWN_ADDRESS:
            return EventCause.HARD_BOUNCE
        return classify_bounce(recipient.status, text)
    if bounce.bounce_sub_type == "General" and not recipient.status and not text:
        # SES reports an out-of-office answer in this way
        return EventCause.AUTO_REPLY
    cause = classify_bounce(recipient.status, text)
    return EventCause.POLICY_BOUNCE if cause is EventCause.POLICY_BOUNCE else EventCause.SOFT_BOUNCE


def _is_sns_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    is_plain = parts.username is None and parts.password is None and port in (None, 443)
    return parts.scheme == "https" and is_plain and _HOST.fullmatch(parts.hostname or "") is not None


def _build_signed_text(envelope: Envelope) -> bytes:
    """Return name and value of the signed fields in lines, in the order that SNS defines."""
    values = {
        "Message": envelope.message,
        "MessageId": envelope.message_id,
        "Subject": envelope.subject,
        "SubscribeURL": envelope.subscribe_url,
        "Timestamp": envelope.timestamp,
        "Token": envelope.token,
        "TopicArn": envelope.topic,
        "Type": envelope.kind,
    }
    names = _NOTIFICATION if envelope.kind == "Notification" else _CONFIRMATION
    return "".join(f"{name}\n{value}\n" for name in names if (value := values[name]) is not None).encode()
