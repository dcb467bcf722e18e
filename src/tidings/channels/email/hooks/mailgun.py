"""Mailgun's webhooks. Pure.

Mailgun signs a timestamp and a token, not the body. So a token is accepted for a day only, and a webhook that is sent
again has the id of its event.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from tidings.channels.email.hooks.bounce_policy import classify_bounce, find_status_code
from tidings.channels.email.hooks.fields import decode_body, parse_delivery_id, parse_recipient
from tidings.errors import Unauthenticated
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus

#: Mailgun repeats a webhook for eight hours, with its first signature
MAX_AGE: Final = timedelta(days=1)
_REASONS: Final[Mapping[str, EventCause]] = {
    # an address that Mailgun does not send to any more
    "suppress-bounce": EventCause.HARD_BOUNCE,
    "suppress-complaint": EventCause.COMPLAINT,
    "suppress-unsubscribe": EventCause.UNSUBSCRIBE,
}


class _Signature(msgspec.Struct, frozen=True):
    timestamp: str | int
    token: str
    signature: str


class _Status(msgspec.Struct, frozen=True, rename="kebab"):
    code: int | None = None
    enhanced_code: str | None = None
    message: str | None = None
    description: str | None = None


class _Headers(msgspec.Struct, frozen=True, rename="kebab"):
    message_id: str | None = None


class _Message(msgspec.Struct, frozen=True):
    headers: _Headers = _Headers()


class _Event(msgspec.Struct, frozen=True, rename="kebab"):
    event: str
    id: str
    timestamp: float = 0.0
    recipient: str | None = None
    severity: str = ""
    reason: str = ""
    delivery_status: _Status = _Status()
    message: _Message = _Message()


class _Webhook(msgspec.Struct, frozen=True, rename="kebab"):
    signature: _Signature
    event_data: _Event


def verify_signature(body: bytes, key: str, now: datetime) -> None:
    """Verify a webhook. key: Mailgun's HTTP webhook signing key. Raises Unauthenticated, ValidationFailed."""
    signature = decode_body(body, _Webhook).signature
    signed = f"{signature.timestamp}{signature.token}".encode()
    expected = hmac.digest(key.encode(), signed, hashlib.sha256).hex()
    if not hmac.compare_digest(expected.encode(), signature.signature.lower().encode()):
        raise Unauthenticated("the signature of the hook is invalid")
    try:
        age = now - datetime.fromtimestamp(float(signature.timestamp), UTC)
    except (ValueError, OverflowError, OSError):
        raise Unauthenticated("the time of the hook is invalid") from None
    if abs(age) > MAX_AGE:
        raise Unauthenticated("the hook is older than a day")


def read_events(body: bytes, now: datetime) -> list[ProviderEvent]:
    """Return the event of a webhook; none for a type that says nothing of delivery. Raises ValidationFailed."""
    event = decode_body(body, _Webhook).event_data
    status: ReceiptStatus | None = None
    reported = event.delivery_status
    text = f"{reported.code or ''} {reported.message or reported.description or ''}".strip()
    match event.event:
        case "accepted":
            status, cause = ReceiptStatus.SENT, EventCause.NONE
        case "delivered":
            status, cause = ReceiptStatus.DELIVERED, EventCause.NONE
        case "failed" if event.severity == "permanent":
            status = ReceiptStatus.BOUNCED
            cause = _REASONS.get(event.reason) or classify_bounce(reported.enhanced_code, text)
        case "failed":
            # Mailgun tries again, and reports the end
            cause = EventCause.NONE
        case "complained":
            status, cause = ReceiptStatus.COMPLAINED, EventCause.COMPLAINT
        case "unsubscribed":
            cause = EventCause.UNSUBSCRIBE
        case _:
            return []
    message_id = event.message.headers.message_id
    code = find_status_code(reported.enhanced_code, text) or (str(reported.code) if reported.code else None)
    occurred_at = datetime.fromtimestamp(event.timestamp, UTC) if event.timestamp > 0 else now
    return [
        ProviderEvent(
            "email",
            "mailgun",
            event.id,
            occurred_at,
            status,
            cause,
            message_id,
            parse_delivery_id(message_id),
            parse_recipient(event.recipient),
            code=code,
            detail=text,
        )
    ]
