"""Subjects: the order of the notifications on one subject, and what each user heard of it."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import (
    ColumnElement,
    Text,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.digest import DigestItemState
from tidings.model.notification import NotificationState
from tidings.model.outcome import RetryLater
from tidings.model.subject import (
    SEPARATOR,
    PriorDelivery,
    ReceiptStatus,
    SubjectNotification,
    SupersededNotification,
    Supersession,
)
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.delivery_claims import CANCELLATION_LOCK_ID
from tidings.stores.schema.digest_tables import digest_items
from tidings.stores.schema.step_tables import IS_WAITING, awaited_events, waiting_steps
from tidings.stores.schema.tables import WHERE_SUBJECT, WHERE_UNPLANNED, attempts, deliveries, notifications, skips
from tidings.stores.sql.ids import Id
from tidings.stores.sql.json_params import encode_rows, id_array, rowset, text_array
from tidings.stores.sql.subject_query import count_users, find_newer_for_user, match_list, match_users

_n, _d, _s, _i = notifications.c, deliveries.c, skips.c, digest_items.c
#: seed of the advisory locks on subjects: "tidings" in ASCII, and a 2
SUBJECT_LOCK_ID = 0x74_69_64_69_6E_67_73_02
#: states in which a user has received a message, or is about to
_SENT_STATES = (DeliveryState.DELIVERED.value, DeliveryState.SENDING.value, DeliveryState.UNCERTAIN.value)
_OPEN_STATES = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)
#: later steps that can still start
_HAS_WAITING_STEPS = exists().where(waiting_steps.c.notification_id == _n.id, *IS_WAITING)
#: collected by a digest that is open
_IS_COLLECTED = exists().where(_i.notification_id == _n.id, _i.state == DigestItemState.COLLECTED.value)
_HAS_OPEN = or_(WHERE_UNPLANNED, exists().where(_d.notification_id == _n.id, _d.state.in_(_OPEN_STATES)), _IS_COLLECTED)
#: with dead letters: they are not replayed any more once a newer notification is accepted
_HAS_UNSENT = or_(
    WHERE_UNPLANNED,
    exists().where(
        _d.notification_id == _n.id,
        _d.state.in_((*_OPEN_STATES, DeliveryState.REFUSED.value, DeliveryState.UNCERTAIN.value)),
    ),
    _IS_COLLECTED,
)
#: neither superseded nor cancelled
_LIVE = (WHERE_SUBJECT, _n.superseded_by.is_(None), _n.state != NotificationState.CANCELLED.value)
_superseded = rowset("rows", _n.id, column("newer_id", Id))
#: an attempt without an answer of the provider, which may have taken the message
_MAY_HAVE_ARRIVED = or_(
    _d.crashes > 0,
    exists().where(
        attempts.c.delivery_id == _d.id, attempts.c.outcome == RetryLater.label, attempts.c.status.is_(None)
    ),
)


class SqlSubjects:
    """Implements `ports.store.Subjects`."""

    async def lock(self, tx: Transaction, keys: Collection[str]) -> None:
        if connection_of(tx).dialect.name != "postgresql":
            return  # SQLite has one writer
        # in one order, so that two transactions with the same subjects cannot deadlock
        for key in sorted(keys):
            hashed = func.hashtextextended(cast(literal(key, Text), Text), SUBJECT_LOCK_ID)
            await connection_of(tx).execute(select(func.pg_advisory_xact_lock(hashed)))

    async def find_newest(self, tx: Transaction, keys: Collection[str]) -> Mapping[str, tuple[int, str]]:
        newest = (
            select(_n.subject, func.max(_n.subject_version))
            .where(WHERE_SUBJECT, _n.subject.in_(text_array(list(keys))))
            .group_by(_n.subject)
        )
        query = (
            select(_n.subject, _n.subject_version, func.max(cast(_n.id, Text)))
            .where(WHERE_SUBJECT, tuple_(_n.subject, _n.subject_version).in_(newest))
            .group_by(_n.subject, _n.subject_version)
        )
        return {key: (version, newest_id) for key, version, newest_id in await connection_of(tx).execute(query)}

    async def find_newer(
        self, tx: Transaction, key: str, *, version: int, user_ids: Collection[str] | None
    ) -> str | None:
        query = (
            select(_n.id)
            .where(WHERE_SUBJECT, _n.subject == key, _n.subject_version > version)
            .order_by(_n.subject_version.desc(), _n.id.desc())
            .limit(1)
        )
        if user_ids is not None:
            query = query.where(or_(~match_list(notifications), match_users(notifications, user_ids)))
        found: str | None = await connection_of(tx).scalar(query)
        return found

    async def find_newer_for_user(self, tx: Transaction, notification_id: str, user_id: str) -> str | None:
        newer = func.coalesce(_n.superseded_by, find_newer_for_user(notifications, literal(user_id, Text)))
        found: str | None = await connection_of(tx).scalar(select(newer).where(_n.id == notification_id))
        return found

    async def supersede(self, tx: Transaction, newer: Sequence[Supersession]) -> Mapping[str, SupersededNotification]:
        superseded_by = await _find_superseded(tx, newer)
        if not superseded_by or not (ids := await _lock_live(tx, _n.id.in_(id_array(superseded_by)))):
            return {}
        # The older ones were complete when the newest was accepted, or are marked already. Only the deliveries of the
        # newest are searched, which may be many.
        newest = (
            select(func.max(_n.subject_version))
            .where(WHERE_SUBJECT, _n.subject == newer[0].key, _n.subject_version < max(one.before for one in newer))
            .scalar_subquery()
        )
        marked = await connection_of(tx).execute(
            update(notifications)
            .where(_n.id == _superseded.c.id)
            .values(
                superseded_by=_superseded.c.newer_id,
                superseded_unsent=case((_n.subject_version == newest, _HAS_UNSENT), else_=_HAS_OPEN),
            )
            .returning(_n.id, _n.superseded_by, _n.superseded_unsent),
            {"rows": encode_rows([(older, superseded_by[older]) for older in ids])},
        )
        return {older: SupersededNotification(newer_id, bool(unsent)) for older, newer_id, unsent in marked}

    async def withdraw(self, tx: Transaction, key: str) -> Sequence[str]:
        ids = await _lock_live(tx, or_(_n.subject == key, _is_below(key)))
        if not ids:
            return []
        found = await connection_of(tx).scalars(
            update(notifications)
            .where(_n.id.in_(id_array(ids)), or_(_HAS_OPEN, _HAS_WAITING_STEPS))
            .values(state=NotificationState.CANCELLED.value, cursor=None, superseded_unsent=True)
            .returning(_n.id)
        )
        withdrawn = found.all()
        awaited = awaited_events.c.notification_id.in_(id_array(withdrawn))
        await connection_of(tx).execute(delete(awaited_events).where(awaited))
        return withdrawn

    async def wait_for_claims(self, tx: Transaction) -> None:
        if connection_of(tx).dialect.name == "postgresql":
            await connection_of(tx).execute(select(func.pg_advisory_xact_lock(CANCELLATION_LOCK_ID)))

    async def list_history(
        self, tx: Transaction, key: str, *, before: int | None = None, limit: int
    ) -> Sequence[SubjectNotification]:
        query = (
            select(
                _n.id,
                _n.template_code,
                _n.subject_version,
                _n.subject_state,
                _n.subject_previous_state,
                (_n.state == NotificationState.CANCELLED.value).label("is_cancelled"),
                _n.state.in_((NotificationState.ACCEPTED.value, NotificationState.FANNING_OUT.value)).label(
                    "is_planning"
                ),
                _n.superseded_by,
                _n.superseded_unsent,
            )
            .where(WHERE_SUBJECT, _n.subject == key)
            .order_by(_n.subject_version.desc(), _n.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(_n.subject_version < before)
        return [
            SubjectNotification(
                notification_id=row.id,
                template_code=row.template_code,
                version=row.subject_version,
                state=row.subject_state,
                previous_state=row.subject_previous_state,
                is_cancelled=bool(row.is_cancelled),
                is_planning=bool(row.is_planning),
                superseded_by=row.superseded_by,
                was_superseded_unsent=bool(row.superseded_unsent),
            )
            for row in await connection_of(tx).execute(query)
        ]

    async def has_unsent(self, tx: Transaction, notification_id: str) -> bool:
        query = select(_n.id).where(_n.id == notification_id, _HAS_UNSENT)
        return await connection_of(tx).scalar(query) is not None

    async def list_prior_deliveries(
        self, tx: Transaction, notification_ids: Collection[str], user_ids: Collection[str]
    ) -> Sequence[PriorDelivery]:
        ids, users = id_array(list(notification_ids)), text_array(list(user_ids))
        status = case(
            (_d.state.in_(_SENT_STATES), ReceiptStatus.INFORMED.value),
            (_MAY_HAVE_ARRIVED, ReceiptStatus.UNKNOWN.value),
            else_=ReceiptStatus.UNSENT.value,
        )
        planned = select(_d.user_id, _d.notification_id, status.label("status")).where(
            _d.notification_id.in_(ids), _d.user_id.in_(users)
        )
        reason = case(
            (_s.reason == SkipReason.SUPERSEDED.value, ReceiptStatus.UNSENT.value),
            (_s.reason == SkipReason.ALREADY_INFORMED.value, ReceiptStatus.INFORMED.value),
            else_=ReceiptStatus.UNKNOWN.value,
        )
        skipped = select(_s.user_id, _s.notification_id, reason.label("status")).where(
            _s.notification_id.in_(ids), _s.user_id.in_(users)
        )
        in_digest = case(
            (_i.state == DigestItemState.COLLECTED.value, ReceiptStatus.UNSENT.value),
            (_i.state == DigestItemState.DIGESTED.value, ReceiptStatus.INFORMED.value),
            (_i.reason == SkipReason.SUPERSEDED.value, ReceiptStatus.UNSENT.value),
            (_i.reason == SkipReason.SEEN.value, ReceiptStatus.INFORMED.value),
            else_=ReceiptStatus.UNKNOWN.value,
        )
        collected = select(_i.user_id, _i.notification_id, in_digest.label("status")).where(
            _i.notification_id.in_(ids), _i.user_id.in_(users)
        )
        rows = await connection_of(tx).execute(union_all(planned, skipped, collected))
        return [
            PriorDelivery(user_id, notification_id, ReceiptStatus(status)) for user_id, notification_id, status in rows
        ]


async def _find_superseded(tx: Transaction, newer: Sequence[Supersession]) -> Mapping[str, str]:
    """Return the live notifications that some newer ones on a subject supersede: id → id of the newest of these.

    Only lists of users are read, and none that is longer than those of the newer ones.
    """
    matches: list[ColumnElement[bool]] = [
        (_n.subject == newer[0].key) & (_n.subject_version < max(one.before for one in newer))
    ]
    if any(one.includes_below for one in newer):
        matches.append(_is_below(newer[0].key))
    is_listed, size = match_list(notifications), count_users(notifications)
    is_short = size <= max((len(one.user_ids) for one in newer if one.user_ids is not None), default=0)
    user_ids = _n.audience["userIds"]
    query = select(
        _n.id,
        _n.subject,
        _n.subject_version,
        is_listed.label("is_listed"),
        case((is_listed & is_short, user_ids)).label("user_ids"),
    ).where(*_LIVE)
    if all(one.user_ids is not None for one in newer):
        listed = {user_id for one in newer for user_id in one.user_ids or ()}
        first_is_listed = _n.audience[("userIds", 0)].as_string().in_(text_array(list(listed)))
        query = query.where(or_(~is_listed, is_short & first_is_listed))
    found: dict[str, str] = {}
    # a query per range: PostgreSQL may scan the whole index for two ranges in one condition
    for row in await connection_of(tx).execute(union_all(*(query.where(one) for one in matches))):
        is_too_long = row.is_listed and row.user_ids is None
        for one in newer:
            is_older = row.subject_version < one.before if row.subject == one.key else one.includes_below
            if is_older and (one.user_ids is None if is_too_long else one.has_users(row.user_ids)):
                found[row.id] = one.notification_id
                break
    return found


async def _lock_live(tx: Transaction, matches: ColumnElement[bool]) -> Sequence[str]:
    """Lock the notifications that are neither superseded nor cancelled, and return their ids.

    A statement of its own: one that waits for a row sees the deliveries of the transaction it waited for only if it
    begins after the wait. In the order of ids, in which pages of the fan-out are stored.
    """
    query = select(_n.id).where(*_LIVE, matches).order_by(_n.id).with_for_update()
    return (await connection_of(tx).scalars(query)).all()


def _is_below(key: str) -> ColumnElement[bool]:
    """Return the condition that a subject is below `key`: a range, which the index can search."""
    return (_n.subject >= key + SEPARATOR) & (_n.subject < key + chr(ord(SEPARATOR) + 1))
