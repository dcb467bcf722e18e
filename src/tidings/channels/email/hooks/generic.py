"""The generic format, for providers without one of their own here and for the host product's own mail system. Pure."""

from datetime import datetime
from enum import StrEnum

import msgspec

from tidings.channels.email.hooks.bounce_policy import classify_bounce
from tidings.channels.email.hooks.fields import decode_body, parse_delivery_id, parse_instant, parse_recipient
from tidings.errors import ValidationFailed
from tidings.model.ids import is_id
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus


class EventType(StrEnum):
    """What happened."""

    SENT = "sent"
    DELIVERED = "delivered"
    #: tried again by the provider
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    FAILED = "failed"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"


_STATUSES = {
    EventType.SENT: ReceiptStatus.SENT,
    EventType.DELIVERED: ReceiptStatus.DELIVERED,
    EventType.BOUNCED: ReceiptStatus.BOUNCED,
    EventType.FAILED: ReceiptStatus.FAILED,
    EventType.COMPLAINED: ReceiptStatus.COMPLAINED,
}


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    type: EventType
    recipient: str
    #: unique per event; else message, recipient and type identify it
    id: str | None = None
    #: the relay's id, or the `Message-ID` of the message
    message_id: str | None = None
    delivery_id: str | None = None
    occurred_at: str | None = None
    #: enhanced status code (RFC 3463)
    code: str | None = None
    detail: str = ""


class _Batch(msgspec.Struct, frozen=True):
    events: list[_Event]


def read_events(body: bytes, now: datetime) -> list[ProviderEvent]:
    """Return the events of a body `{"events": [{type, recipient, …}]}`. Raises ValidationFailed."""
    return [_to_event(event, position, now) for position, event in enumerate(decode_body(body, _Batch).events)]


def _to_event(event: _Event, position: int, now: datetime) -> ProviderEvent:
    recipient = parse_recipient(event.recipient)
    if recipient is None:
        raise ValidationFailed.for_field(f"events[{position}].recipient", "must be an e-mail address")
    delivery_id = event.delivery_id or parse_delivery_id(event.message_id)
    if event.delivery_id is not None and not is_id(event.delivery_id):
        raise ValidationFailed.for_field(f"events[{position}].deliveryId", "must be the id of a delivery")
    cause = EventCause.NONE
    match event.type:
        case EventType.BOUNCED:
            cause = classify_bounce(event.code, event.detail)
        case EventType.COMPLAINED:
            cause = EventCause.COMPLAINT
        case EventType.UNSUBSCRIBED:
            cause = EventCause.UNSUBSCRIBE
    return ProviderEvent(
        "email",
        "generic",
        event.id
        or "\n".join((event.message_id or event.delivery_id or event.occurred_at or "", recipient, event.type)),
        parse_instant(event.occurred_at, now),
        _STATUSES.get(event.type),
        cause,
        event.message_id,
        delivery_id,
        recipient,
        code=event.code,
        detail=event.detail,
    )
