"""Rows of deliveries, attempts and skips ↔ the records of the flow, and the two statements they need."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, exists, insert, select, update

from tidings.model.delivery import Attempted, DeliveryState, Due, Planned, Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.outcome import Deferred, Delivered, Gone, Refused
from tidings.stores.schema import SENDING, attempts, deliveries, notifications, preferences, push_subscriptions, users
from tidings.stores.sealing import Sealer
from tidings.stores.subscriptions import opened

_d = deliveries.c
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
        push_subscriptions.c.id.label("subscription_id"),
        push_subscriptions.c.sealed,
        push_subscriptions.c.vapid_key_id,
        push_subscriptions.c.device,
        push_subscriptions.c.state.label("subscription_state"),
        push_subscriptions.c.created_at.label("subscribed_at"),
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

#: an outcome, fenced: only the row that still holds this very lease takes it
RECORD = (
    update(deliveries)
    .where(_d.id == bindparam("of_delivery"), _d.lease_token == bindparam("of_lease"), SENDING)
    .values(
        state=bindparam("new_state"),
        why=bindparam("new_why"),
        due_at=bindparam("new_due_at"),
        attempts=bindparam("new_attempts"),
        batch_id=None,
        lease_token=None,
        lease_until=None,
        updated_at=bindparam("now"),
    )
)

#: one try; a delivery that was erased with its user meanwhile takes its tries with it
RECORD_TRY = (
    insert(attempts)
    .from_select(
        [column.name for column in attempts.c],
        select(*(bindparam(f"try_{column.name}", type_=column.type) for column in attempts.c)).where(
            exists().where(_d.id == bindparam("try_delivery_id"))
        ),
    )
    .prefix_with("OR IGNORE", dialect="sqlite")
)


def due(row: Row[*tuple[Any, ...]], token: str, lease_until: datetime, sealer: Sealer) -> Due:
    """Return the claimed delivery of a row of `DUE`."""
    return Due(
        id=row.id,
        notification_id=row.notification_id,
        user_id=row.user_id,
        channel=row.channel,
        target=opened(row, sealer) if row.sealed is not None else None,
        locale=row.locale,
        timezone=row.timezone,
        preference=row.enabled,
        attempts=row.attempts,
        lease_token=token,
        lease_until=lease_until,
        planned_at=row.planned_at,
        cancelled=row.notification_state == NotificationState.CANCELLED.value,
    )


def planned_row(planned: Planned, now: datetime) -> dict[str, object]:
    """Return the row of a new delivery."""
    return {
        "id": planned.id,
        "notification_id": planned.notification_id,
        "user_id": planned.user_id,
        "channel": planned.channel,
        "target_id": planned.target_id,
        "lane": planned.lane.value,
        "state": DeliveryState.PENDING.value,
        "rule": planned.rule,
        "why": None,
        "batch_id": planned.batch_id,
        "due_at": planned.due_at,
        "attempts": 0,
        "lease_token": None,
        "lease_until": None,
        "created_at": now,
        "updated_at": now,
    }


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


def outcome_row(attempted: Attempted, now: datetime) -> dict[str, object]:
    """Return the parameters of `RECORD`."""
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
            state = DeliveryState.CANCELLED if outcome.reason is SkipReason.CANCELLED else DeliveryState.SKIPPED
            number -= 1
    return {
        "of_delivery": attempted.delivery_id,
        "of_lease": attempted.lease_token,
        "new_state": state.value,
        "new_why": _why(outcome),
        "new_due_at": due_at,
        "new_attempts": number,
        "now": now,
    }


def attempt_row(attempted: Attempted) -> dict[str, object]:
    """Return the parameters of `RECORD_TRY`."""
    outcome = attempted.outcome
    assert not isinstance(outcome, Skipped), "a skip is not a try"
    return {
        "try_delivery_id": attempted.delivery_id,
        "try_started_at": attempted.started_at,
        "try_number": attempted.number,
        "try_outcome": type(outcome).__name__.lower(),
        "try_why": _why(outcome),
        "try_status": outcome.status,
        "try_finished_at": attempted.finished_at,
    }


def _why(outcome: Delivered | Deferred | Refused | Gone | Skipped) -> str:
    return (outcome.reason.value if isinstance(outcome, Skipped) else outcome.why)[:WHY]
