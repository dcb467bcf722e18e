"""Receipts: what providers report of messages that they took, and the status that follows from them. Pure.

Reports come twice, in any order, and before the acceptance is stored. So the status is never stored: it is computed
from all reports of a message, and no order of them can change it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec


class ReceiptStatus(StrEnum):
    """The status of a message at its provider, in the order in which it moves forward."""

    SENT = "sent"
    DELIVERED = "delivered"
    #: the provider gave up
    FAILED = "failed"
    #: the network of the recipient did not deliver it
    UNDELIVERED = "undelivered"
    #: the server of the recipient returned it
    BOUNCED = "bounced"
    #: delivered, and reported as spam
    COMPLAINED = "complained"


_RANK = {status: rank for rank, status in enumerate(ReceiptStatus)}
#: the recipient did not get the message
FAILED_STATUSES = frozenset({ReceiptStatus.FAILED, ReceiptStatus.UNDELIVERED, ReceiptStatus.BOUNCED})


class EventCause(StrEnum):
    """What an event says of the address."""

    NONE = "none"
    #: the address does not exist (RFC 3463 5.1.x)
    HARD_BOUNCE = "hard_bounce"
    #: a cause that passes: mailbox full, server busy
    SOFT_BOUNCE = "soft_bounce"
    #: a policy refused this message or this server (5.7.x); says nothing of the address
    POLICY_BOUNCE = "policy_bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    #: the number does not exist, was deactivated, or cannot receive messages
    INVALID_NUMBER = "invalid_number"
    #: the recipient answered STOP
    OPT_OUT = "opt_out"
    #: the provider refuses to deliver, because the recipient opted out with it
    PROVIDER_OPT_OUT = "provider_opt_out"
    #: the recipient answered START
    OPT_IN = "opt_in"
    HELP = "help"
    #: an answer that is probably an opt-out: an operator decides
    REVIEW = "review"
    #: out of office, vacation, a challenge: not a bounce
    AUTO_REPLY = "auto_reply"
    #: a person opened the message, or followed a link in it
    OPEN = "open"
    CLICK = "click"
    #: a person dismissed the message without opening it
    CLOSE = "close"
    #: a mail proxy or a scanner did
    MACHINE_OPEN = "machine_open"
    MACHINE_CLICK = "machine_click"


class ProviderEvent(msgspec.Struct, frozen=True):
    """One verified event of a provider, about one recipient."""

    channel: str
    provider: str
    #: unique within the provider and channel: a repeat has the same
    event_id: str
    #: by the clock of the provider
    occurred_at: datetime
    #: None = it says nothing of the message's status
    status: ReceiptStatus | None = None
    cause: EventCause = EventCause.NONE
    #: the provider's id of the message; each segment of an SMS may have its own
    message_id: str | None = None
    #: our own id, None if the provider did not return it
    delivery_id: str | None = None
    #: in the channel's canonical form
    recipient: str | None = None
    #: our number that the recipient answered, empty = all
    sender: str = ""
    #: the provider's error code, or an enhanced status code (RFC 3463)
    code: str | None = None
    #: the provider's text
    detail: str = ""
    #: whose message it was, None = known by the recipient's address only
    user_id: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """A stored event."""

    id: str
    channel: str
    provider: str
    status: ReceiptStatus | None
    cause: EventCause
    message_id: str | None
    delivery_id: str | None
    #: None in traces, which show no addresses
    recipient: str | None
    code: str | None
    detail: str
    occurred_at: datetime
    received_at: datetime
    #: how often the provider sent it again
    repeats: int = 0


def advance_status(before: ReceiptStatus | None, status: ReceiptStatus | None) -> ReceiptStatus | None:
    """Return the status after one more report. It only moves forward."""
    if before is None or status is None:
        return status or before
    return max(before, status, key=_RANK.__getitem__)


def compute_status(receipts: Iterable[Receipt | ProviderEvent], parts: int = 1) -> ReceiptStatus | None:
    """Return the status that the receipts of a message say, None without any. Order and repetition change nothing.

    parts: the number of messages that the provider made of it, each with an id: the segments of an SMS. A failed part
    fails the message, and it is delivered when all parts are.
    """
    by_part: dict[str, ReceiptStatus] = {}
    for receipt in receipts:
        key = receipt.message_id or ""
        if (status := advance_status(by_part.get(key), receipt.status)) is not None:
            by_part[key] = status
    if not by_part:
        return None
    worst = max(by_part.values(), key=_RANK.__getitem__)
    if worst is not ReceiptStatus.DELIVERED:
        return worst
    delivered = sum(status is ReceiptStatus.DELIVERED for status in by_part.values())
    return ReceiptStatus.DELIVERED if delivered >= max(parts, len(by_part)) else ReceiptStatus.SENT


def select_receipt(receipts: Sequence[Receipt], status: ReceiptStatus | None) -> Receipt | None:
    """Return the receipt that explains a status: of those with it the first that has a code, else the first."""
    matching = sorted(
        (receipt for receipt in receipts if receipt.status is status),
        key=lambda receipt: (receipt.code is None, receipt.occurred_at, receipt.id),
    )
    return matching[0] if matching else None
