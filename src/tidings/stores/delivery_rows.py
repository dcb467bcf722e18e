"""Rows of deliveries, attempts and skips ↔ the records of the flow, and the statements they need."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import (
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    bindparam,
    column,
    exists,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from tidings.errors import ConfigError
from tidings.model.delivery import Attempted, DeliveryState, Due, Planned, Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.outcome import Deferred, Delivered, Gone, Refused
from tidings.model.subscription import PushSubscription
from tidings.stores.json_rows import instant, json_rows
from tidings.stores.schema import (
    Instant,
    attempts,
    deliveries,
    notifications,
    preferences,
    push_subscriptions,
    skips,
    users,
)
from tidings.stores.sealing import Sealer
from tidings.stores.subscriptions import DEVICE, opened
from tidings.stores.types import Id
from tidings.stores.upserts import upsert_on

log = structlog.get_logger(__name__)

_d = deliveries.c
#: skips just before sending that have a final state of their own
_LATE_SKIPS = {SkipReason.CANCELLED: DeliveryState.CANCELLED, SkipReason.EXPIRED: DeliveryState.EXPIRED}
#: longest `why` kept, in characters
WHY = 300


def _due_of(found: FromClause) -> Select[*tuple[Any, ...]]:
    """Return everything that must be looked at again just before sending (MISSION B8) of some deliveries."""
    it = found.c
    return (
        select(
            it.id,
            it.notification_id,
            it.user_id,
            it.channel,
            it.attempts,
            it.created_at.label("planned_at"),
            notifications.c.state.label("notification_state"),
            users.c.locale,
            users.c.timezone,
            preferences.c.enabled,
            *DEVICE,
        )
        .select_from(
            found.join(notifications, notifications.c.id == it.notification_id)
            .outerjoin(users, users.c.id == it.user_id)
            .outerjoin(
                push_subscriptions,
                (push_subscriptions.c.id == it.target_id) & (push_subscriptions.c.user_id == it.user_id),
            )
            .outerjoin(
                preferences,
                (preferences.c.user_id == it.user_id)
                & (preferences.c.category == notifications.c.category)
                & (preferences.c.channel == it.channel),
            )
        )
        .order_by(it.id)
    )


_claimed = json_rows("rows", _d.id, _d.notification_id)
# Apart, because of all in one PostgreSQL may go from the rows given to their notification and from there to all of its
# deliveries: a broadcast that is read once for each of its own rows, where it believes that a notification has one.
_by_key = (
    select(_d.id, _d.notification_id, _d.user_id, _d.channel, _d.target_id, _d.attempts, _d.created_at)
    .where(tuple_(_d.id, _d.notification_id).in_(select(_claimed.c.id, _claimed.c.notification_id)))
    .cte("found")
    .prefix_with("MATERIALIZED")
)
#: what is due, for the rows given, per dialect: SQLite finds them by id, PostgreSQL by their key, in their partitions
DUE_OF = {
    "postgresql": _due_of(_by_key),
    "sqlite": _due_of(deliveries).where(_d.id.in_(select(_claimed.c.id))),
}

_new = json_rows(
    "rows", _d.id, _d.notification_id, _d.user_id, _d.channel, _d.target_id, _d.lane, _d.rule, _d.batch_id, _d.due_at
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

_s = skips.c
_silent = json_rows("rows", _s.id, _s.notification_id, _s.user_id, _s.channel, _s.reason, _s.detail)
#: new skips
SKIP = insert(skips).from_select([*_silent.c.keys(), "created_at"], select(*_silent.c, bindparam("now", type_=Instant)))

_outcome = json_rows(
    "rows",
    _d.id,
    _d.notification_id,
    column("lease", Id),
    column("new_state", Text),
    column("new_why", Text),
    column("new_due_at", Instant),
    column("new_attempts", Integer),
)
#: Outcomes, fenced: only a row that still holds this very lease takes it, and only what is being sent holds one. To ask
#: for the state as well would let PostgreSQL go through the index of all that is being sent, and of all that was: an
#: entry is only forgotten when nobody looks at the past any more, and a backup does for as long as it takes.
RECORD = (
    update(deliveries)
    .where(
        _d.id == _outcome.c.id,
        _d.notification_id == _outcome.c.notification_id,
        _d.lease_token == _outcome.c.lease,
    )
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

_a = attempts.c
_try = json_rows(
    "rows",
    _a.delivery_id,
    _a.started_at,
    _a.number,
    _a.outcome,
    _a.why,
    _a.status,
    _a.finished_at,
    _d.notification_id,
)
_tries = [name for name in _try.c.keys() if name != "notification_id"]  # noqa: SIM118  # a collection of columns
_tried = select(*(_try.c[name] for name in _tries)).where(
    # a delivery that was erased with its user meanwhile takes its tries with it
    exists().where(_d.id == _try.c.delivery_id, _d.notification_id == _try.c.notification_id)
)
#: tries, per dialect; one that is there already (a repeat) is left as it is
RECORD_TRIES = {
    dialect: upsert_on(dialect, attempts).from_select(_tries, _tried).on_conflict_do_nothing()
    for dialect in ("postgresql", "sqlite")
}


def due(row: Row[*tuple[Any, ...]], token: str, lease_until: datetime, sealer: Sealer) -> Due:
    """Return the claimed delivery of a row of `DUE_OF`."""
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


def skipped_row(skipped: Skipped, now: datetime) -> Sequence[object]:
    """Return a row of `SKIP`."""
    return (
        new_id(now),
        skipped.notification_id,
        skipped.user_id,
        skipped.channel,
        skipped.reason.value,
        dict(skipped.detail),
    )


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
    return (
        attempted.delivery_id,
        attempted.notification_id,
        attempted.lease_token,
        state.value,
        _why(outcome),
        instant(due_at),
        number,
    )


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
        attempted.notification_id,
    )


def _why(outcome: Delivered | Deferred | Refused | Gone | Skipped) -> str:
    why = outcome.reason.value if isinstance(outcome, Skipped) else outcome.why
    # what a provider says may have a NUL in it, which PostgreSQL takes in no text
    return why[:WHY].replace("\0", "\N{REPLACEMENT CHARACTER}")
