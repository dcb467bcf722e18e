"""Delivery reports and incoming messages of SMS providers as events. Pure.

The fields are those of the verified webhook (`webhook_verification`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from tidings.channels.sms import twilio, vonage
from tidings.channels.sms.keywords import SmsIntent, parse_intent
from tidings.channels.sms.numbers import parse_number
from tidings.channels.sms.provider import Concern
from tidings.errors import ValidationFailed
from tidings.model.ids import is_id
from tidings.model.receipt import EventCause, ProviderEvent
from tidings.model.receipt import ReceiptStatus as ReceiptStatus  # part of what receipts say
from tidings.model.suppression import ALL, normalize_sender

#: what a provider's error code is about → what it says of the number
_CAUSES = {Concern.OPT_OUT: EventCause.PROVIDER_OPT_OUT, Concern.NUMBER: EventCause.INVALID_NUMBER}
_INTENTS = {
    SmsIntent.OPT_OUT: EventCause.OPT_OUT,
    SmsIntent.OPT_IN: EventCause.OPT_IN,
    SmsIntent.HELP: EventCause.HELP,
    SmsIntent.REVIEW: EventCause.REVIEW,
    SmsIntent.OTHER: EventCause.NONE,
}


class IncomingSms(msgspec.Struct, frozen=True):
    """A message from a user."""

    provider: str
    message_id: str
    #: the user's number in E.164
    sender: str
    #: our number, and the messaging service that it belongs to
    recipients: Sequence[str]
    text: str
    intent: SmsIntent
    #: the provider has answered a keyword itself
    is_answered: bool = False

    def to_event(self, own_senders: Sequence[str], now: datetime) -> ProviderEvent:
        """Return the event. own_senders: those of the channel; a message to another number is about all of them."""
        own = {normalize_sender(sender): sender for sender in own_senders}
        sender = next((own[key] for one in self.recipients if (key := normalize_sender(one)) in own), ALL)
        cause = _INTENTS[self.intent]
        # an ordinary answer is the host product's affair: its text is not stored
        text = self.text if cause in (EventCause.HELP, EventCause.REVIEW) else ""
        return ProviderEvent(
            "sms",
            self.provider,
            f"in\n{self.message_id}",
            now,
            cause=cause,
            recipient=self.sender,
            sender=sender,
            detail=text,
        )


def parse_twilio_receipt(fields: Mapping[str, str], query: Mapping[str, str], now: datetime) -> ProviderEvent | None:
    """Return the event of a status callback, None for a status that says nothing new (queued, sending, read).

    query: the query of the callback's URL, which contains our own id. Raises ValidationFailed for a missing field.
    """
    reported = _require(fields, "MessageStatus", "SmsStatus").lower()
    message_id = _require(fields, "MessageSid", "SmsSid")
    if (status := _TWILIO_STATUS.get(reported)) is None:
        return None
    code = fields.get("ErrorCode") or None
    concern = None
    if code is not None or (status is not ReceiptStatus.SENT and status is not ReceiptStatus.DELIVERED):
        concern = twilio.CONCERNS.get(int(code) if code and code.isdecimal() else 0)
    return ProviderEvent(
        "sms",
        "twilio",
        f"{message_id}\n{reported}",
        now,
        status,
        _find_cause(concern),
        message_id,
        _find_own_id(query.get("deliveryId")),
        _parse_recipient(fields.get("To")),
        fields.get("MessagingServiceSid") or fields.get("From") or ALL,
        code,
    )


def parse_vonage_receipt(fields: Mapping[str, str], now: datetime) -> ProviderEvent | None:
    """Return the event of a delivery receipt, None for a status that says nothing new (buffered, unknown).

    Raises ValidationFailed for a missing field.
    """
    reported = _require(fields, "status").lower()
    message_id = _require(fields, "messageId", "message-id")
    if (status := _VONAGE_STATUS.get(reported)) is None:
        return None
    code = fields.get("err-code") or None
    if code == "0":
        code = None
    return ProviderEvent(
        "sms",
        "vonage",
        f"{message_id}\n{reported}",
        _parse_vonage_time(fields.get("message-timestamp"), now),
        status,
        _find_cause(None if code is None else vonage.RECEIPT_CONCERNS.get(code)),
        message_id,
        _find_own_id(fields.get("client-ref")),
        _parse_recipient(fields.get("msisdn")),
        fields.get("to") or ALL,
        code,
    )


def parse_twilio_incoming(fields: Mapping[str, str]) -> IncomingSms:
    """Return an incoming message. Twilio's own opt-out decision is taken over. Raises ValidationFailed."""
    text = fields.get("Body", "")
    decided = _TWILIO_OPT_OUT_TYPES.get(fields.get("OptOutType", "").upper())
    return IncomingSms(
        "twilio",
        _require(fields, "MessageSid", "SmsSid"),
        _parse_sender(_require(fields, "From")),
        [one for one in (fields.get("MessagingServiceSid"), _require(fields, "To")) if one],
        text,
        decided or parse_intent(text),
        is_answered=decided is not None,
    )


def parse_vonage_incoming(fields: Mapping[str, str]) -> IncomingSms:
    """Return an incoming message. Raises ValidationFailed for a missing field."""
    text = fields.get("text", "")
    return IncomingSms(
        "vonage",
        _require(fields, "messageId", "message-id"),
        _parse_sender(_require(fields, "msisdn")),
        [_require(fields, "to")],
        text,
        parse_intent(text),
    )


_TWILIO_STATUS = {
    "sent": ReceiptStatus.SENT,
    "delivered": ReceiptStatus.DELIVERED,
    "failed": ReceiptStatus.FAILED,
    "undelivered": ReceiptStatus.UNDELIVERED,
    "canceled": ReceiptStatus.FAILED,
}
_VONAGE_STATUS = {
    "accepted": ReceiptStatus.SENT,
    "delivered": ReceiptStatus.DELIVERED,
    "failed": ReceiptStatus.FAILED,
    "rejected": ReceiptStatus.FAILED,
    "expired": ReceiptStatus.UNDELIVERED,
    "deleted": ReceiptStatus.FAILED,
}
_TWILIO_OPT_OUT_TYPES = {"STOP": SmsIntent.OPT_OUT, "START": SmsIntent.OPT_IN, "HELP": SmsIntent.HELP}


def _find_cause(concern: Concern | None) -> EventCause:
    return EventCause.NONE if concern is None else _CAUSES.get(concern, EventCause.NONE)


def _find_own_id(text: str | None) -> str | None:
    return text if text is not None and is_id(text) else None


def _parse_recipient(text: str | None) -> str | None:
    """Return a number in E.164, None if it is none: a status without it is kept all the same."""
    try:
        return _parse_sender(text or "")
    except ValidationFailed:
        return None


def _parse_sender(text: str) -> str:
    return parse_number("+" + text.removeprefix("+"), field="msisdn").e164


def _parse_vonage_time(text: str | None, default: datetime) -> datetime:
    """Return the time of a receipt, which is UTC without a zone."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return default
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _require(fields: Mapping[str, str], *names: str) -> str:
    for name in names:
        if fields.get(name):
            return fields[name]
    raise ValidationFailed.for_field(names[0], "is required")
