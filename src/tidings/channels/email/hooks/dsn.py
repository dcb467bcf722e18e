"""Messages that mail servers return: status notifications (RFC 3464), spam reports (RFC 5965), and others. Pure.

A message without a machine-readable report is not a bounce, whatever its text says: an out-of-office answer, a vacation
notice, or a challenge.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import parsedate_to_datetime

from tidings.channels.email.hooks.bounce_policy import classify_bounce, find_status_code
from tidings.channels.email.hooks.fields import parse_delivery_id, parse_recipient
from tidings.model.receipt import EventCause, ProviderEvent, ReceiptStatus

_ACTIONS = {
    "failed": ReceiptStatus.BOUNCED,
    "delivered": ReceiptStatus.DELIVERED,
    "relayed": ReceiptStatus.SENT,
    "expanded": ReceiptStatus.SENT,
}


def read_events(body: bytes, now: datetime) -> list[ProviderEvent]:
    """Return an event per recipient of a returned message. body: the message (RFC 5322), as a mail server got it."""
    message = BytesParser(policy=compat32).parsebytes(body)
    digest = hashlib.sha256(body).hexdigest()
    at = _parse_date(message, now)
    own = _find_message_id(message)
    if (report := _find_part(message, "message/delivery-status")) is not None:
        return [
            _to_event(fields, f"{digest}\n{position}", at, own)
            for position, fields in enumerate(_list_recipients(report))
        ]
    if (report := _find_part(message, "message/feedback-report")) is not None:
        return _read_complaint(message, report, digest, at, own)
    # the sender of an automatic answer is the recipient of ours
    sender = parse_recipient(message.get("From"))
    return [
        ProviderEvent(
            "email",
            "dsn",
            digest,
            at,
            cause=EventCause.AUTO_REPLY,
            delivery_id=parse_delivery_id(message.get("In-Reply-To")),
            recipient=sender,
            detail=str(message.get("Subject", "")),
        )
    ]


def _to_event(fields: Message, event_id: str, at: datetime, own: str | None) -> ProviderEvent:
    action = str(fields.get("Action", "")).strip().lower()
    status = _ACTIONS.get(action)
    text = _strip_type(fields.get("Diagnostic-Code"))
    code = find_status_code(fields.get("Status"), text)
    return ProviderEvent(
        "email",
        "dsn",
        event_id,
        at,
        status,
        # a delayed message is still tried
        classify_bounce(code, text) if status is ReceiptStatus.BOUNCED else EventCause.NONE,
        own,
        parse_delivery_id(own),
        # the address that we wrote to; the final one may be where its owner forwards messages
        parse_recipient(_strip_type(fields.get("Original-Recipient")) or _strip_type(fields.get("Final-Recipient"))),
        code=code,
        detail=text,
    )


def _read_complaint(
    message: Message, report: Message, digest: str, at: datetime, own: str | None
) -> list[ProviderEvent]:
    fields = next(_list_blocks(report), report)
    recipient = fields.get("Original-Rcpt-To") or _find_original(message, "To")
    kind = str(fields.get("Feedback-Type", "")).strip().lower()
    if kind == "not-spam":
        return []
    return [
        ProviderEvent(
            "email",
            "dsn",
            digest,
            at,
            ReceiptStatus.COMPLAINED,
            EventCause.COMPLAINT,
            own,
            parse_delivery_id(own),
            parse_recipient(recipient),
            code=kind or None,
        )
    ]


def _list_recipients(report: Message) -> Iterator[Message]:
    """Yield the fields of each recipient. The first block is about the whole message."""
    return (block for block in _list_blocks(report) if "Final-Recipient" in block or "Original-Recipient" in block)


def _list_blocks(report: Message) -> Iterator[Message]:
    payload = report.get_payload()
    if isinstance(payload, list):
        yield from (block for block in payload if isinstance(block, Message))
    else:
        # a media type that the parser does not know as a message: its text has the fields
        raw = report.get_payload(decode=True)
        yield BytesParser(policy=compat32).parsebytes(raw if isinstance(raw, bytes) else b"", headersonly=True)


def _find_part(message: Message, content_type: str) -> Message | None:
    # only direct parts of a report: an attachment may be a returned message of somebody else
    parts = message.get_payload() if message.get_content_type() == "multipart/report" else None
    if not isinstance(parts, list):
        return None
    return next((part for part in parts if isinstance(part, Message) and part.get_content_type() == content_type), None)


def _find_message_id(message: Message) -> str | None:
    return _find_original(message, "Message-ID")


def _find_original(message: Message, header: str) -> str | None:
    """Return a header of our message, which is returned as a part of the report, complete or its headers only."""
    for content_type in ("message/rfc822", "text/rfc822-headers", "message/rfc822-headers"):
        part = _find_part(message, content_type)
        original = None if part is None else next(_list_blocks(part), None)
        if original is not None and (value := original.get(header)) is not None:
            return str(value).strip()
    return None


def _strip_type(value: object) -> str:
    """Return the value of a field `type; value`, such as `rfc822; ana@example.org`."""
    kind, separator, rest = " ".join(str(value or "").split()).partition(";")
    return rest.strip() if separator else kind


def _parse_date(message: Message, default: datetime) -> datetime:
    try:
        moment = parsedate_to_datetime(str(message.get("Date", "")))
    except ValueError:
        return default
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
