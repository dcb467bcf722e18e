"""Postmark's webhooks: deliveries, bounces, spam complaints and changed subscriptions. Pure.

Postmark sends no signature; the call is verified by a shared secret in the URL's user and password.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from tidings.channels.email.hooks.bounce_policy import classify_bounce, find_status_code
from tidings.channels.email.hooks.fields import decode_body, parse_instant, parse_recipient
from tidings.model.ids import is_id
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus

#: name of the metadata with our id of the delivery, which the message has as a header (`mime.METADATA_HEADER`)
_METADATA: Final = "delivery-id"

#: types of bounces that say more than a status code; the others are classified by the text of the server
_TYPES: Final[Mapping[str, EventCause]] = {
    "BadEmailAddress": EventCause.HARD_BOUNCE,
    "AutoResponder": EventCause.AUTO_REPLY,
    "ChallengeVerification": EventCause.AUTO_REPLY,
    "AddressChange": EventCause.AUTO_REPLY,
    "SpamComplaint": EventCause.COMPLAINT,
    "SpamNotification": EventCause.POLICY_BOUNCE,
    "Blocked": EventCause.POLICY_BOUNCE,
    "DMARCPolicy": EventCause.POLICY_BOUNCE,
    "VirusNotification": EventCause.POLICY_BOUNCE,
    "Unsubscribe": EventCause.UNSUBSCRIBE,
    "Subscribe": EventCause.NONE,
}
#: types for which Postmark goes on trying, or that are not about the message
_NOT_FINAL: Final = frozenset({"AutoResponder", "ChallengeVerification", "AddressChange", "Unsubscribe", "Subscribe"})


class _Webhook(msgspec.Struct, frozen=True, rename="pascal"):
    record_type: str
    message_id: str | None = msgspec.field(name="MessageID", default=None)
    id: int | str | None = msgspec.field(name="ID", default=None)
    type: str = ""
    email: str | None = None
    recipient: str | None = None
    details: str | None = None
    description: str | None = None
    bounced_at: str | None = None
    delivered_at: str | None = None
    changed_at: str | None = None
    suppress_sending: bool = False
    suppression_reason: str | None = None
    metadata: Mapping[str, str] | None = None


def read_events(body: bytes, now: datetime) -> list[ProviderEvent]:
    """Return the event of a webhook; none for a type that says nothing of delivery. Raises ValidationFailed."""
    webhook = decode_body(body, _Webhook)
    recipient = parse_recipient(webhook.email or webhook.recipient)
    status: ReceiptStatus | None = None
    match webhook.record_type:
        case "Delivery":
            status, cause = ReceiptStatus.DELIVERED, EventCause.NONE
        case "Bounce":
            cause = _classify(webhook)
            is_final = webhook.type not in _NOT_FINAL
            status = ReceiptStatus.BOUNCED if is_final else None
            if cause is EventCause.COMPLAINT:
                status = ReceiptStatus.COMPLAINED
        case "SpamComplaint":
            status, cause = ReceiptStatus.COMPLAINED, EventCause.COMPLAINT
        case "SubscriptionChange" if webhook.suppress_sending and webhook.suppression_reason == "ManualSuppression":
            # the other reasons repeat a bounce or a complaint
            cause = EventCause.UNSUBSCRIBE
        case _:
            return []
    at = webhook.bounced_at or webhook.delivered_at or webhook.changed_at
    delivery_id = (webhook.metadata or {}).get(_METADATA)
    return [
        ProviderEvent(
            "email",
            "postmark",
            "\n".join((webhook.record_type, str(webhook.id or webhook.message_id), recipient or "", at or "")),
            parse_instant(at, now),
            status,
            cause,
            webhook.message_id,
            delivery_id if delivery_id is not None and is_id(delivery_id) else None,
            recipient,
            code=find_status_code(webhook.details) or webhook.type or None,
            detail=webhook.details or webhook.description or "",
        )
    ]


def _classify(webhook: _Webhook) -> EventCause:
    if (cause := _TYPES.get(webhook.type)) is not None:
        return cause
    text = webhook.details or ""
    if webhook.type == "HardBounce" and find_status_code(text) is None:
        # "unknown user, mailbox not found", as Postmark defines it
        return EventCause.HARD_BOUNCE
    return classify_bounce(None, text)
