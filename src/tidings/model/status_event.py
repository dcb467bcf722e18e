"""Status events: what becomes of notifications and deliveries, for the host product."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from tidings.model.delivery import AttemptResult, DeliveryState, SkipRecord
from tidings.model.notification import Notification
from tidings.model.receipt import FAILED_STATUSES, ProviderEvent, ReceiptStatus

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StatusEventType(StrEnum):
    """The kinds of status events. docs/reference/webhooks.md explains each."""

    ACCEPTED = "notification.accepted"
    DELIVERED = "delivery.delivered"
    FAILED = "delivery.failed"
    SKIPPED = "delivery.skipped"
    #: the provider may have taken it before it fell silent
    UNCERTAIN = "delivery.uncertain"
    #: the provider reported later that the recipient did not get the message
    BOUNCED = "delivery.bounced"
    #: the recipient reported the message as spam
    COMPLAINED = "delivery.complained"


#: final state of a delivery → its event; a dead letter that an operator discards had one before
_TYPES: Mapping[DeliveryState, StatusEventType] = {
    DeliveryState.DELIVERED: StatusEventType.DELIVERED,
    DeliveryState.REFUSED: StatusEventType.FAILED,
    DeliveryState.GONE: StatusEventType.FAILED,
    DeliveryState.EXPIRED: StatusEventType.FAILED,
    DeliveryState.SKIPPED: StatusEventType.SKIPPED,
    DeliveryState.CANCELLED: StatusEventType.SKIPPED,
    DeliveryState.UNCERTAIN: StatusEventType.UNCERTAIN,
}


class StatusEvent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One event. JSON in camelCase; what does not apply is left out."""

    type: StatusEventType
    at: datetime
    #: order among the events of one delivery, or of one notification: microseconds since 1970
    sequence: int
    notification_id: str
    delivery_id: str | None = None
    user_id: str | None = None
    channel: str | None = None
    #: final state of the delivery
    state: str | None = None
    reason: str | None = None
    #: the account that carried the message, and its id there
    provider: str | None = None
    message_id: str | None = None
    category: str | None = None
    template_code: str | None = None


class StatusEventBatch(msgspec.Struct, frozen=True):
    """Stored events that are sent together."""

    id: str
    #: a JSON array
    events: bytes
    count: int
    created_at: datetime
    #: attempts made, this one included
    attempts: int


def build_accepted_event(notification: Notification, now: datetime) -> StatusEvent:
    """Return the event of a notification that was accepted."""
    return StatusEvent(
        StatusEventType.ACCEPTED,
        now,
        _to_sequence(now),
        notification.id,
        category=notification.category,
        template_code=notification.template_code,
    )


def build_skip_event(skip: SkipRecord, now: datetime) -> StatusEvent:
    """Return the event of a recipient for whom nothing is planned on a channel."""
    return StatusEvent(
        StatusEventType.SKIPPED,
        now,
        _to_sequence(now),
        skip.notification_id,
        user_id=skip.user_id,
        channel=skip.channel,
        state=DeliveryState.SKIPPED.value,
        reason=skip.reason.value,
    )


def build_outcome_event(result: AttemptResult, state: DeliveryState, now: datetime) -> StatusEvent | None:
    """Return the event of an outcome that set a delivery to a state, None if that is not final."""
    outcome = result.outcome
    kind = _TYPES.get(state)
    if kind is None:
        return None
    return StatusEvent(
        kind,
        now,
        _to_sequence(now),
        result.notification_id,
        result.delivery_id,
        result.user_id,
        result.channel,
        state.value,
        outcome.reason.value if isinstance(outcome, SkipRecord) else outcome.why,
        getattr(outcome, "provider", None),
        getattr(outcome, "message_id", None),
    )


def build_receipt_event(event: ProviderEvent, notification_id: str, user_id: str, now: datetime) -> StatusEvent | None:
    """Return the event of what a provider reported later of a delivery, None if the recipient got the message.

    Its reason is the cause with the provider's code: texts of providers may contain the address.
    """
    if event.delivery_id is None or event.status is None:
        return None
    if event.status is ReceiptStatus.COMPLAINED:
        kind = StatusEventType.COMPLAINED
    elif event.status in FAILED_STATUSES:
        kind = StatusEventType.BOUNCED
    else:
        return None
    return StatusEvent(
        kind,
        now,
        _to_sequence(now),
        notification_id,
        event.delivery_id,
        user_id,
        event.channel,
        event.status.value,
        f"{event.cause.value} {event.code or ''}".strip(),
        event.provider,
        event.message_id,
    )


def build_state_event(
    state: DeliveryState,
    delivery_id: str,
    notification_id: str,
    user_id: str,
    channel: str,
    *,
    reason: str,
    now: datetime,
) -> StatusEvent:
    """Return the event of a delivery that reached a final state without an attempt."""
    return StatusEvent(
        _TYPES[state], now, _to_sequence(now), notification_id, delivery_id, user_id, channel, state.value, reason
    )


def _to_sequence(at: datetime) -> int:
    elapsed = at - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
