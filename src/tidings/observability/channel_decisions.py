"""What was decided for one user on each channel: by which rule, with which inputs, and what preferences say now. Pure.

A stage that keeps decisions in tables of its own (digests, steps) adds its rows to `ExplainInput`, and an outcome here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from tidings.model.consent import ConsentDecision, evaluate_notification
from tidings.model.decision import find_rule
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.notification import Notification
from tidings.model.preference import Preference
from tidings.model.template import Category
from tidings.model.trace import DeliveryTrace, SkipTrace


class ChannelOutcome(StrEnum):
    """What became of a notification on a channel."""

    SENT = "sent"
    #: due, or waiting for a retry
    WAITING = "waiting"
    #: a rule holds it until a time
    HELD = "held"
    SKIPPED = "skipped"
    FAILED = "failed"
    #: not decided yet, or the user was not in the audience
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class ChannelDecision:
    """The decision on one contact point of a channel, or on the channel as a whole."""

    channel: str
    outcome: ChannelOutcome
    #: the delivery that it is about; None = the channel as a whole
    delivery_id: str | None = None
    #: the rule that decided; see docs/explanation/plan.md
    rule: str | None = None
    #: of skips
    reason: SkipReason | None = None
    #: the recorded inputs of the rule
    inputs: Mapping[str, object] = field(default_factory=dict)
    #: nothing is sent before this
    until: datetime | None = None
    #: what permits or forbids the category now; None if its pack is not installed
    consent: ConsentDecision | None = None


_PREFLIGHT_STATES = (DeliveryState.SKIPPED, DeliveryState.EXPIRED, DeliveryState.CANCELLED)


def list_channel_decisions(
    notification: Notification,
    category: Category | None,
    channels: Sequence[str],
    deliveries: Sequence[DeliveryTrace],
    skips: Sequence[SkipTrace],
    *,
    preferences: Sequence[Preference],
    defaults: Sequence[Preference],
) -> list[ChannelDecision]:
    """Return the decisions of one user, at least one per channel that the notification may use.

    channels: the configured ones. preferences, defaults: of the user and the installation, as they are now.
    """
    recorded = [*(trace.channel for trace in deliveries), *(skip.channel for skip in skips)]
    names = dict.fromkeys([*(notification.channels or channels), *recorded])
    decisions = []
    for channel in names:
        consent = None
        if category is not None:
            consent = evaluate_notification(notification, category, channel, preferences, defaults=defaults)
        of_channel = [trace for trace in deliveries if trace.channel == channel]
        found = [_of_delivery(trace, consent) for trace in of_channel]
        # skips of the preflight check are recorded with the delivery, too
        explained = {trace.why for trace in of_channel if trace.state in _PREFLIGHT_STATES}
        found += [
            _of_skip(skip, consent) for skip in skips if skip.channel == channel and skip.reason.value not in explained
        ]
        decisions += found or [ChannelDecision(channel, ChannelOutcome.UNDECIDED, consent=consent)]
    return decisions


def describe_consent(decision: ChannelDecision) -> Iterator[str]:
    """Yield sentences on the entry that decided, and those that it beat."""
    if decision.consent is None or (decision.consent.deciding.preference is None and not decision.consent.beaten):
        return
    deciding, beaten = decision.consent.deciding, decision.consent.beaten
    yield f"On {decision.channel} now: {deciding.describe()}."
    if beaten:
        yield f"This precedes: {'; '.join(entry.describe() for entry in beaten)}."


def _of_delivery(trace: DeliveryTrace, consent: ConsentDecision | None) -> ChannelDecision:
    match trace.state:
        case DeliveryState.PENDING if trace.held_by is not None:
            return ChannelDecision(
                trace.channel,
                ChannelOutcome.HELD,
                trace.id,
                trace.held_by,
                inputs=trace.detail,
                until=trace.due_at,
                consent=consent,
            )
        case DeliveryState.PENDING:
            return ChannelDecision(trace.channel, ChannelOutcome.WAITING, trace.id, until=trace.due_at, consent=consent)
        case DeliveryState.SENDING:
            return ChannelDecision(trace.channel, ChannelOutcome.WAITING, trace.id, consent=consent)
        case DeliveryState.SKIPPED | DeliveryState.EXPIRED | DeliveryState.CANCELLED:
            reason = _parse_reason(trace)
            rule = find_rule(reason, trace.detail)
            return ChannelDecision(
                trace.channel, ChannelOutcome.SKIPPED, trace.id, rule, reason, trace.detail, consent=consent
            )
        case DeliveryState.DELIVERED | DeliveryState.UNCERTAIN:
            return ChannelDecision(trace.channel, ChannelOutcome.SENT, trace.id, consent=consent)
        case DeliveryState.REFUSED | DeliveryState.GONE | DeliveryState.DISCARDED:
            return ChannelDecision(trace.channel, ChannelOutcome.FAILED, trace.id, consent=consent)


def _parse_reason(trace: DeliveryTrace) -> SkipReason:
    """Return why a delivery was not sent. A provider's queue may expire one, too, and states its own reason."""
    try:
        return SkipReason(trace.why or "")
    except ValueError:
        return SkipReason.CANCELLED if trace.state is DeliveryState.CANCELLED else SkipReason.EXPIRED


def _of_skip(skip: SkipTrace, consent: ConsentDecision | None) -> ChannelDecision:
    rule = find_rule(skip.reason, skip.detail)
    return ChannelDecision(skip.channel, ChannelOutcome.SKIPPED, None, rule, skip.reason, skip.detail, consent=consent)
