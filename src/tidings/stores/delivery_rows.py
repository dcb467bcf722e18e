"""Rows of deliveries, attempts and skips ↔ the records of the flow, and the statements they need."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Row, bindparam, exists, insert, literal, select, update

from tidings.errors import ConfigError
from tidings.model.delivery import Attempted, DeliveryState, Due, Planned, Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.outcome import Deferred, Delivered, Gone, Refused
from tidings.model.subscription import PushSubscription
from tidings.stores.json_rows import instant, json_rows
from tidings.stores.schema import (
    SENDING,
    Instant,
    attempts,
    deliveries,
    notifications,
    preferences,
    push_subscriptions,
    users,
)
from tidings.stores.sealing import Sealer
from tidings.stores.subscriptions import DEVICE, opened

log = structlog.get_logger(__name__)

_d = deliveries.c
#: skips just before sending that have a final state of their own
_LATE_SKIPS = {SkipReason.CANCELLED: DeliveryState.CANCELLED, SkipReason.EXPIRED: DeliveryState.EXPIRED}
#: longest `why` kept, in characters
WHY = 300

#: everything that must be looked at again just before sending (MISSION B8), in one statement
DUE = (
    select(
        _d.id,
        _d.notification_id,
        _d.user_id,
        _d.channel,
        _d.attempts,
        _d.created_at.label("planned_at"),
        notifications.c.state.label("notification_state"),
        users.c.locale,
        users.c.timezone,
        preferences.c.enabled,
        *DEVICE,
    )
    .select_from(
        deliveries.join(notifications, notifications.c.id == _d.notification_id)
        .outerjoin(users, users.c.id == _d.user_id)
        .outerjoin(
            push_subscriptions,
            (push_subscriptions.c.id == _d.target_id) & (push_subscriptions.c.user_id == _d.user_id),
        )
        .outerjoin(
            preferences,
            (preferences.c.user_id == _d.user_id)
            & (preferences.c.category == notifications.c.category)
            & (preferences.c.channel == _d.channel),
        )
    )
    .order_by(_d.id)
)

_new = json_rows(
    "rows", "id", "notification_id", "user_id", "channel", "target_id", "lane", "rule", "batch_id", "due_at"
)
#: new deliveries
ADD = insert(deliveries).from_select(
    [*_new.c.keys(), "state", "attempts", "created_at", "updated_at"],
    select(
        *_new.c,
        literal(DeliveryState.PENDING.value),
        literal(0),
        bindparam("now", type_=Instant),
        bindparam("now", type_=Instant),
    ),
)

_outcome = json_rows("rows", "id", "lease", "new_state", "new_why", "new_due_at", "new_attempts")
#: outcomes, fenced: only a row that still holds this very lease takes it
RECORD = (
    update(deliveries)
    .where(_d.id == _outcome.c.id, _d.lease_token == _outcome.c.lease, SENDING)
    .values(
        state=_outcome.c.new_state,
        why=_outcome.c.new_why,
        due_at=_outcome.c.new_due_at,
        attempts=_outcome.c.new_attempts,
        batch_id=None,
        lease_token=None,
        lease_until=None,
        updated_at=bindparam("now", type_=Instant),
    )
)

_try = json_rows("rows", "delivery_id", "started_at", "number", "outcome", "why", "status", "finished_at")
#: tries; a delivery that was erased with its user meanwhile takes its tries with it
RECORD_TRIES = (
    insert(attempts)
    .from_select(_try.c.keys(), select(*_try.c).where(exists().where(_d.id == _try.c.delivery_id)))
    .prefix_with("OR IGNORE", dialect="sqlite")
)


def due(row: Row[*tuple[Any, ...]], token: str, lease_until: datetime, sealer: Sealer) -> Due:
    """Return the claimed delivery of a row of `DUE`."""
    (delivery_id, notification_id, user_id, channel, tries, planned_at, state, locale, timezone, choice, *device) = row
    return Due(
        id=delivery_id,
        notification_id=notification_id,
        user_id=user_id,
        channel=channel,
        target=_target(user_id, device, sealer),
        locale=locale,
        timezone=timezone,
        preference=choice,
        attempts=tries,
        lease_token=token,
        lease_until=lease_until,
        planned_at=planned_at,
        cancelled=state == NotificationState.CANCELLED.value,
    )


def _target(user_id: str, device: list[Any], sealer: Sealer) -> PushSubscription | None:
    if device[0] is None:
        return None
    try:
        return opened(user_id, *device, sealer=sealer)
    except ConfigError:
        # a wrong key is found at the start, by the VAPID keys; here one row is damaged, and must not hold up the rest
        log.error("subscription_cannot_be_unsealed", subscription_id=device[0])
        return None


def new_row(planned: Planned) -> Sequence[str | int | None]:
    """Return a row of `ADD`."""
    return (
        planned.id,
        planned.notification_id,
        planned.user_id,
        planned.channel,
        planned.target_id,
        planned.lane.value,
        planned.rule,
        planned.batch_id,
        instant(planned.due_at),
    )


def skipped_row(skipped: Skipped, now: datetime) -> dict[str, object]:
    """Return the row of a recorded skip."""
    return {
        "id": new_id(now),
        "notification_id": skipped.notification_id,
        "user_id": skipped.user_id,
        "channel": skipped.channel,
        "reason": skipped.reason.value,
        "detail": dict(skipped.detail),
        "created_at": now,
    }


def outcome_row(attempted: Attempted) -> Sequence[str | int | None]:
    """Return a row of `RECORD`."""
    outcome = attempted.outcome
    number = attempted.number
    due_at = attempted.finished_at
    match outcome:
        case Delivered():
            state = DeliveryState.DELIVERED
        case Deferred():
            state, due_at = DeliveryState.PENDING, outcome.until
            number -= 0 if outcome.spends_attempt else 1
        case Refused():
            state = DeliveryState.EXPIRED if outcome.expired else DeliveryState.REFUSED
        case Gone():
            state = DeliveryState.GONE
        case Skipped():
            state = _LATE_SKIPS.get(outcome.reason, DeliveryState.SKIPPED)
            number -= 1
    return attempted.delivery_id, attempted.lease_token, state.value, _why(outcome), instant(due_at), number


def try_row(attempted: Attempted) -> Sequence[str | int | None]:
    """Return a row of `RECORD_TRIES`."""
    outcome = attempted.outcome
    assert not isinstance(outcome, Skipped), "a skip is not a try"
    return (
        attempted.delivery_id,
        instant(attempted.started_at),
        attempted.number,
        type(outcome).__name__.lower(),
        _why(outcome),
        outcome.status,
        instant(attempted.finished_at),
    )


def _why(outcome: Delivered | Deferred | Refused | Gone | Skipped) -> str:
    return (outcome.reason.value if isinstance(outcome, Skipped) else outcome.why)[:WHY]
