"""Maps rows of deliveries, attempts and skips to records of the model, with the statements on them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import structlog
from msgspec import structs
from sqlalchemy import (
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    bindparam,
    case,
    column,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from tidings.errors import ConfigError
from tidings.model.delivery import (
    AttemptResult,
    ClaimedDelivery,
    DeliveryState,
    HoldRecord,
    PlannedDelivery,
    SkipReason,
    SkipRecord,
    Target,
)
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.preference import ALL_SUBJECTS, ANY
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.repositories.contact_points import CONTACT_POINT_COLUMNS, PUSH_CHANNEL, to_contact_point
from tidings.stores.repositories.push_subscriptions import to_subscription
from tidings.stores.repositories.user_schedules import SCHEDULE_COLUMNS, to_schedule
from tidings.stores.schema.tables import (
    Instant,
    Json,
    attempts,
    contact_points,
    deliveries,
    notifications,
    preferences,
    skips,
    user_schedules,
    users,
)
from tidings.stores.sql.ids import Id
from tidings.stores.sql.json_params import encode_instant, rowset
from tidings.stores.sql.preference_query import PREFERENCE_COLUMNS, find_preferences, to_preference
from tidings.stores.sql.subject_query import find_newer_for_user
from tidings.stores.sql.upsert import upsert_for_dialect

log = structlog.get_logger(__name__)

_d = deliveries.c
#: `Notification.preference_subject`
_PREFERENCE_SUBJECT = case((notifications.c.digest_id.is_not(None), ALL_SUBJECTS), else_=notifications.c.subject)
#: skip reasons of the preflight check with their own final state; the others end in `skipped`
_PREFLIGHT_SKIP_STATES = {SkipReason.CANCELLED: DeliveryState.CANCELLED, SkipReason.EXPIRED: DeliveryState.EXPIRED}
#: where `PREFERENCE_COLUMNS` are in a row of `SELECT_CLAIMED`
_PREFERENCE_POSITIONS = slice(15, 15 + len(PREFERENCE_COLUMNS))
#: maximum length of a stored `why`, in characters
MAX_REASON_LENGTH = 300


def _select_claimed(source: FromClause) -> Select[*tuple[Any, ...]]:
    """Return a SELECT of everything that the preflight check and the channel need of some deliveries.

    A delivery has a row for each preference that may apply to it, and one if there is none.
    """
    it = source.c
    return (
        select(
            it.id,
            it.notification_id,
            it.user_id,
            it.channel,
            it.attempts,
            it.created_at,
            it.held_by,
            notifications.c.state.label("notification_state"),
            func.coalesce(notifications.c.superseded_by, find_newer_for_user(notifications, it.user_id)).label(
                "superseded_by"
            ),
            users.c.locale,
            users.c.timezone,
            *SCHEDULE_COLUMNS,
            contact_points.c.timezone.label("device_timezone"),
            *PREFERENCE_COLUMNS,
            *CONTACT_POINT_COLUMNS,
            contact_points.c.key_id,
            contact_points.c.last_seen_at,
        )
        .select_from(
            source.join(notifications, notifications.c.id == it.notification_id)
            .outerjoin(users, users.c.id == it.user_id)
            .outerjoin(user_schedules, user_schedules.c.user_id == it.user_id)
            .outerjoin(contact_points, (contact_points.c.id == it.target_id) & (contact_points.c.user_id == it.user_id))
            .outerjoin(
                preferences,
                find_preferences(it.user_id, notifications.c.category, _PREFERENCE_SUBJECT)
                & preferences.c.channel.in_([literal(ANY), it.channel]),
            )
        )
        .order_by(it.id)
    )


_claimed_keys = rowset("rows", _d.id, _d.notification_id)
# Materialized, because in a single query PostgreSQL may join the given rows with their notification first, and that
# with all of its deliveries. With an estimate of one delivery per notification it would read a broadcast once per row.
_claimed_by_key = (
    select(_d.id, _d.notification_id, _d.user_id, _d.channel, _d.target_id, _d.attempts, _d.created_at, _d.held_by)
    .where(tuple_(_d.id, _d.notification_id).in_(select(_claimed_keys.c.id, _claimed_keys.c.notification_id)))
    .cte("claimed")
    .prefix_with("MATERIALIZED")
)
#: claimed deliveries by dialect: looked up by id on SQLite, by the primary key with the partition key on PostgreSQL
SELECT_CLAIMED = {
    "postgresql": _select_claimed(_claimed_by_key),
    "sqlite": _select_claimed(deliveries).where(_d.id.in_(select(_claimed_keys.c.id))),
}

_new_deliveries = rowset(
    "rows",
    _d.id,
    _d.notification_id,
    _d.user_id,
    _d.channel,
    _d.target_id,
    _d.lane,
    _d.rule,
    _d.batch_id,
    _d.due_at,
    _d.held_by,
    _d.detail,
)
INSERT_DELIVERIES = insert(deliveries).from_select(
    [*_new_deliveries.c.keys(), "state", "attempts", "created_at", "updated_at"],
    select(
        *_new_deliveries.c,
        literal(DeliveryState.PENDING.value),
        literal(0),
        bindparam("now", type_=Instant),
        bindparam("now", type_=Instant),
    ),
)

_s = skips.c
_new_skips = rowset("rows", _s.id, _s.notification_id, _s.user_id, _s.channel, _s.reason, _s.detail)
INSERT_SKIPS = insert(skips).from_select(
    [*_new_skips.c.keys(), "created_at"], select(*_new_skips.c, bindparam("now", type_=Instant))
)

_outcome_rows = rowset(
    "rows",
    _d.id,
    _d.notification_id,
    column("lease", Id),
    column("new_state", Text),
    column("new_why", Text),
    column("new_due_at", Instant),
    column("new_attempts", Integer),
    column("new_detail", Json),
    column("new_held_by", Text),
)
#: Records outcomes, fenced by the lease token. Only a row that is being sent has a token, so the state is not compared:
#: with a condition on the state PostgreSQL may scan the index of rows being sent. That contains dead entries for as
#: long as an old snapshot exists, such as that of a backup.
UPDATE_OUTCOMES = (
    update(deliveries)
    .where(
        _d.id == _outcome_rows.c.id,
        _d.notification_id == _outcome_rows.c.notification_id,
        _d.lease_token == _outcome_rows.c.lease,
    )
    .values(
        state=_outcome_rows.c.new_state,
        why=_outcome_rows.c.new_why,
        detail=_outcome_rows.c.new_detail,
        held_by=_outcome_rows.c.new_held_by,
        due_at=_outcome_rows.c.new_due_at,
        attempts=_outcome_rows.c.new_attempts,
        batch_id=None,
        lease_token=None,
        lease_until=None,
        updated_at=bindparam("now", type_=Instant),
    )
)

#: the same, with the new state of each row that was not rejected
UPDATE_OUTCOMES_RETURNING = UPDATE_OUTCOMES.returning(_d.id, _d.state)

_a = attempts.c
_attempt_rows = rowset(
    "rows",
    _a.delivery_id,
    _a.started_at,
    _a.number,
    _a.outcome,
    _a.why,
    _a.status,
    _a.finished_at,
    _a.provider,
    _a.message_id,
    _a.parts,
    _d.notification_id,
)
_attempt_columns = [name for name in _attempt_rows.c.keys() if name != "notification_id"]  # noqa: SIM118  # a ColumnCollection iterates over columns
_select_attempts = select(*(_attempt_rows.c[name] for name in _attempt_columns)).where(
    # no attempt is stored for a delivery that was erased with its user in the meantime
    exists().where(_d.id == _attempt_rows.c.delivery_id, _d.notification_id == _attempt_rows.c.notification_id)
)
#: by dialect; a repeated attempt is ignored
INSERT_ATTEMPTS = {
    dialect: upsert_for_dialect(dialect, attempts)
    .from_select(_attempt_columns, _select_attempts)
    .on_conflict_do_nothing()
    for dialect in ("postgresql", "sqlite")
}


def to_claimed(
    rows: Iterable[Row[*tuple[Any, ...]]], leases: Callable[[str], tuple[str, datetime]], cipher: FieldCipher
) -> list[ClaimedDelivery]:
    """Return the claimed deliveries of the rows of `SELECT_CLAIMED`. leases: delivery id → token and end of the lease.

    Nearly every delivery has one row, so that those with more are put together afterwards.
    """
    claimed: list[ClaimedDelivery] = []
    for row in rows:
        if claimed and claimed[-1].id == row[0]:
            further = to_preference(*row[_PREFERENCE_POSITIONS])
            claimed[-1] = structs.replace(claimed[-1], preferences=(*claimed[-1].preferences, further))
        else:
            claimed.append(_to_claimed(row, *leases(row[0]), cipher))
    return claimed


def _to_claimed(row: Row[*tuple[Any, ...]], token: str, lease_until: datetime, cipher: FieldCipher) -> ClaimedDelivery:
    (
        delivery_id,
        notification_id,
        user_id,
        channel,
        attempt_count,
        created_at,
        held_by,
        notification_state,
        superseded_by,
        locale,
        timezone,
        schedule_timezone,
        quiet_hours,
        digest_at,
        device_timezone,
        *joined,
    ) = row
    entry, targets = joined[: len(PREFERENCE_COLUMNS)], joined[len(PREFERENCE_COLUMNS) :]
    return ClaimedDelivery(
        id=delivery_id,
        notification_id=notification_id,
        user_id=user_id,
        channel=channel,
        target=_to_target(user_id, targets, cipher),
        locale=locale,
        timezone=timezone,
        preferences=() if entry[0] is None else (to_preference(*entry),),
        attempts=attempt_count,
        lease_token=token,
        lease_until=lease_until,
        created_at=created_at,
        is_cancelled=notification_state == NotificationState.CANCELLED.value,
        superseded_by=superseded_by,
        schedule=to_schedule(schedule_timezone, quiet_hours, digest_at),
        device_timezone=device_timezone,
        held_by=held_by,
    )


def _to_target(user_id: str, columns: list[Any], cipher: FieldCipher) -> Target | None:
    """Return the target of the joined columns: `CONTACT_POINT_COLUMNS`, `key_id` and `last_seen_at`."""
    *contact_point, key_id, last_seen_at = columns
    target_id, channel, sealed, label, _, state, created_at, _, version = contact_point
    if target_id is None:
        return None
    try:
        if channel != PUSH_CHANNEL:
            return to_contact_point(user_id, *contact_point, cipher=cipher)
        return to_subscription(
            user_id, target_id, sealed, key_id, state, label, created_at, version, last_seen_at, cipher=cipher
        )
    except ConfigError:
        # a wrong key is detected at start with the VAPID keys; a single damaged row must not stop the batch
        log.error("address_cannot_be_unsealed", target_id=target_id)
    return None


def delivery_row(planned: PlannedDelivery) -> Sequence[object]:
    """Return a row of `INSERT_DELIVERIES`."""
    return (
        planned.id,
        planned.notification_id,
        planned.user_id,
        planned.channel,
        planned.target_id,
        planned.lane.value,
        planned.rule,
        planned.batch_id,
        encode_instant(planned.due_at),
        planned.held_by,
        None if planned.detail is None else dict(planned.detail),
    )


def skip_row(skip: SkipRecord, now: datetime) -> Sequence[object]:
    """Return a row of `INSERT_SKIPS`."""
    return (
        new_id(now),
        skip.notification_id,
        skip.user_id,
        skip.channel,
        skip.reason.value,
        dict(skip.detail),
    )


def outcome_row(result: AttemptResult) -> Sequence[object]:
    """Return a row of `UPDATE_OUTCOMES`."""
    outcome = result.outcome
    number = result.number
    due_at = result.finished_at
    match outcome:
        case Accepted():
            state = DeliveryState.DELIVERED
        case RetryLater():
            state, due_at = DeliveryState.PENDING, outcome.until
            number -= 0 if outcome.counts_as_attempt else 1
        case PermanentFailure():
            state = DeliveryState.EXPIRED if outcome.is_expired else DeliveryState.REFUSED
        case InvalidTarget():
            state = DeliveryState.GONE
        case Uncertain():
            state = DeliveryState.UNCERTAIN
        case SkipRecord():
            state = _PREFLIGHT_SKIP_STATES.get(outcome.reason, DeliveryState.SKIPPED)
            number -= 1
        case HoldRecord():
            state, due_at = DeliveryState.PENDING, outcome.until
            number -= 1
    return (
        result.delivery_id,
        result.notification_id,
        result.lease_token,
        state.value,
        _truncated_reason(outcome),
        encode_instant(due_at),
        number,
        _detail(outcome),
        outcome.rule if isinstance(outcome, HoldRecord) else None,
    )


def attempt_row(result: AttemptResult) -> Sequence[str | int | None]:
    """Return a row of `INSERT_ATTEMPTS`."""
    outcome = result.outcome
    assert not isinstance(outcome, SkipRecord | HoldRecord), "nothing was tried"
    return (
        result.delivery_id,
        encode_instant(result.started_at),
        result.number,
        outcome.label,
        _truncated_reason(outcome),
        outcome.status,
        encode_instant(result.finished_at),
        getattr(outcome, "provider", None),
        getattr(outcome, "message_id", None),
        getattr(outcome, "parts", None),
        result.notification_id,
    )


def _truncated_reason(outcome: Outcome | SkipRecord | HoldRecord) -> str:
    return outcome.reason.value if isinstance(outcome, SkipRecord) else _storable(outcome.why)


def _detail(outcome: Outcome | SkipRecord | HoldRecord) -> dict[str, object] | None:
    if not isinstance(outcome, SkipRecord | HoldRecord) or not outcome.detail:
        return None
    return {name: _storable(value) if isinstance(value, str) else value for name, value in outcome.detail.items()}


def _storable(text: str) -> str:
    """Truncate a text, and replace NUL: PostgreSQL rejects it, and texts of providers and variables may contain it."""
    return text[:MAX_REASON_LENGTH].replace("\0", "\N{REPLACEMENT CHARACTER}")
