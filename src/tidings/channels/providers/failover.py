"""Rules for several providers: which is asked first, whether another one is asked, and what the outcome is. Pure.

A refusal about the recipient is final with every provider. A provider that refuses this client, or that
certainly did not take the message, leaves it to the next one. A message that may have been taken is not sent again.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from zlib import crc32

import msgspec

from tidings.channels.throttling.signals import Signal
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, RetryLater, Uncertain

#: seconds for one message over all providers. The flow abandons a send after 20 s without knowing whether it was taken
SEND_BUDGET = 18.0
#: seconds that must be left to ask a further provider, and that the one before it leaves
MIN_PROVIDER_TIME = 3.0
#: share of its messages that a provider receives when it returns, and how long until it receives all
MIN_RECOVERY_SHARE = 0.1
RECOVERY_PERIOD = timedelta(minutes=2)


class Concern(StrEnum):
    """What the answer of a provider is about, which decides whether another one is asked."""

    #: it took the message
    ACCEPTED = "accepted"
    #: the recipient, or the message itself: every provider would answer the same
    RECIPIENT = "recipient"
    #: the provider, its account or its limits: it certainly did not take the message
    PROVIDER = "provider"
    #: it asks to wait: another one is asked if the channel shares the excess, or if the message would expire
    RATE = "rate"
    #: it may have taken the message
    UNCERTAIN = "uncertain"


class ProviderResponse(msgspec.Struct, frozen=True):
    """What came of asking one provider."""

    #: the outcome if no other provider is asked
    outcome: Outcome
    concern: Concern
    #: what the answer says about the provider, None = nothing
    signal: Signal | None = None


class SendContext(msgspec.Struct, frozen=True):
    """The properties of a send that the rules depend on."""

    delivery_id: str
    #: 1 for the first attempt of the delivery
    attempt: int
    expires_at: datetime
    #: another provider may be asked although the first may have taken the message, such as for one-time passwords
    duplicate_ok: bool = False


def build_request_key(delivery_id: str, provider: str) -> str:
    """Return the idempotency key of a request: the same for every attempt of a delivery with a provider."""
    return f"{delivery_id}-{provider}"


def can_fail_over(answer: ProviderResponse, context: SendContext, *, shares_excess: bool = False) -> bool:
    """Return whether another provider may be asked after an answer.

    shares_excess: what a provider takes only later goes to the others.
    """
    match answer.concern:
        case Concern.PROVIDER:
            return True
        case Concern.RATE:
            is_receipt_expired = isinstance(answer.outcome, RetryLater) and answer.outcome.until >= context.expires_at
            return shares_excess or is_receipt_expired
        case Concern.UNCERTAIN:
            return context.duplicate_ok
        case _:
            return False


def select_outcome(outcomes: Sequence[Outcome], *, is_final: bool) -> Outcome:
    """Return the outcome of a message that one or more providers were asked to send, in this order.

    is_final: the last outcome forbids asking another provider. A message that an earlier provider may have taken stays
    uncertain unless a later one took it or says that the recipient cannot be reached.
    """
    last = outcomes[-1]
    if isinstance(last, Accepted | InvalidTarget):
        return last
    for outcome in outcomes:
        if isinstance(outcome, Uncertain):
            return outcome
    retries = [outcome for outcome in outcomes if isinstance(outcome, RetryLater)]
    return last if is_final or not retries else min(retries, key=lambda retry: retry.until)


def order_providers(weights: Sequence[int], shares: Sequence[float], delivery_id: str) -> Sequence[int]:
    """Return the indexes of the providers in the order in which they are asked.

    weights: share of the messages for which a provider is asked first, relative to the others; 0 = only after others.
    shares: how much of its weight each has now, 0 to 1 (`compute_recovery_share`); the rest goes to the others. The
    order depends on the delivery's id only, so that each attempt of a delivery begins with the same provider.
    """
    indexes = list(range(len(weights)))
    position = crc32(delivery_id.encode()) / 2**32 * sum(weights)
    for index in indexes:
        if position < weights[index]:
            others = [other for other in indexes if other != index]
            return [index, *others] if position < weights[index] * shares[index] else [*others, index]
        position -= weights[index]
    return indexes


def compute_recovery_share(returned_at: datetime | None, now: datetime) -> float:
    """Return the share of its messages that a provider receives, which was taken out and returned."""
    if returned_at is None or not timedelta() <= now - returned_at < RECOVERY_PERIOD:
        return 1.0
    return MIN_RECOVERY_SHARE + (1 - MIN_RECOVERY_SHARE) * ((now - returned_at) / RECOVERY_PERIOD)


def limit_provider_time(deadline: float, *, has_next: bool) -> float:
    """Return until when one provider may answer, in the unit of `deadline`, the end of the whole send."""
    return deadline - MIN_PROVIDER_TIME if has_next else deadline
