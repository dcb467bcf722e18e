"""Decides what follows from an event of a provider for the address that it names. Pure."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidings.model.receipt import EventCause, ProviderEvent, Receipt, ReceiptStatus
from tidings.model.suppression import ALL, SoftBouncePolicy, SuppressionReason


class Suppress(msgspec.Struct, frozen=True):
    """Send nothing more to the address."""

    reason: SuppressionReason
    sender: str = ALL
    expires_at: datetime | None = None


class LiftBounces(msgspec.Struct, frozen=True):
    """The address is reachable after all: earlier bounces do not count any more."""


class LiftOptOuts(msgspec.Struct, frozen=True):
    """The owner of the address wants messages from the sender again."""

    sender: str


class MarkGone(msgspec.Struct, frozen=True):
    """The contact points with the address cannot be used any more. Their users keep their other ones."""


class ReportReply(msgspec.Struct, frozen=True):
    """A person must read the answer of the recipient."""


Effect = Suppress | LiftBounces | LiftOptOuts | MarkGone | ReportReply

_REASONS = {
    EventCause.HARD_BOUNCE: SuppressionReason.HARD_BOUNCE,
    EventCause.COMPLAINT: SuppressionReason.COMPLAINT,
    EventCause.UNSUBSCRIBE: SuppressionReason.UNSUBSCRIBE,
    EventCause.OPT_OUT: SuppressionReason.OPT_OUT,
    EventCause.PROVIDER_OPT_OUT: SuppressionReason.PROVIDER_OPT_OUT,
}


def decide_effect(
    event: ProviderEvent,
    status: ReceiptStatus | None,
    history: Sequence[Receipt],
    policy: SoftBouncePolicy,
    now: datetime,
) -> Effect | None:
    """Return what follows from an event, None if nothing does.

    status: of the event's message, this event included. history: the events about the address within
    `policy.within`, the newest first, this one included. Bounces for a policy (5.7.x) and automatic replies have no
    effect: they say nothing of the address.
    """
    match event.cause:
        case (
            EventCause.HARD_BOUNCE
            | EventCause.COMPLAINT
            | EventCause.UNSUBSCRIBE
            | EventCause.OPT_OUT
            | EventCause.PROVIDER_OPT_OUT
        ) as cause:
            return Suppress(_REASONS[cause], event.sender)
        case EventCause.SOFT_BOUNCE if count_soft_bounces(history) >= policy.bounces:
            return Suppress(SuppressionReason.SOFT_BOUNCES, expires_at=now + policy.suppressed_for)
        case EventCause.INVALID_NUMBER:
            return MarkGone()
        case EventCause.OPT_IN:
            return LiftOptOuts(event.sender)
        case EventCause.HELP | EventCause.REVIEW:
            return ReportReply()
        case EventCause.NONE if event.status is ReceiptStatus.DELIVERED and status is ReceiptStatus.DELIVERED:
            # a bounce of the same message would outweigh it
            return LiftBounces()
        case _:
            return None


def count_soft_bounces(history: Sequence[Receipt]) -> int:
    """Return the soft bounces since the last confirmed delivery. history: newest first."""
    count = 0
    for receipt in history:
        if receipt.status is ReceiptStatus.DELIVERED:
            break
        count += receipt.cause is EventCause.SOFT_BOUNCE
    return count
