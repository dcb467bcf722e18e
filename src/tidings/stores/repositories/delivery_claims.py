"""Claims: leases of deliveries to workers, their release, and the reaping of expired leases."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

from msgspec import structs
from sqlalchemy import ColumnElement, Text, TextClause, any_, case, cast, func, null, select, tuple_, update

from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import ClaimedDelivery, DeliveryState
from tidings.ports.store import MAX_WORKER_CRASHES, LeaseRelease, Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.delivery_mapping import SELECT_CLAIMED, to_claimed
from tidings.stores.repositories.ended_deliveries import EndedDeliveries, EndedDelivery
from tidings.stores.repositories.step_conditions import find_seen
from tidings.stores.repositories.suppressions import load_of_targets
from tidings.stores.schema.tables import WHERE_PENDING, WHERE_SENDING, deliveries
from tidings.stores.sql.json_params import encode_rows, id_array

_d = deliveries.c
Condition: TypeAlias = ColumnElement[bool] | TextClause
#: `why` of a quarantined delivery
QUARANTINE_REASON = f"quarantined: {MAX_WORKER_CRASHES} workers died while sending it"
#: key of the advisory lock between claims and cancellations: "tidings" in ASCII, and a 1
CANCELLATION_LOCK_ID = 0x74_69_64_69_6E_67_73_01
#: rows reaped by one statement: few enough for the planner to look each up by its key
_REAP_BATCH_SIZE = 1000


class DeliveryClaims:
    """The part of `ports.store.Deliveries` that manages leases."""

    def __init__(self, cipher: FieldCipher, ended_deliveries: EndedDeliveries) -> None:
        self._cipher = cipher
        self._ended_deliveries = ended_deliveries

    async def claim(
        self, tx: Transaction, batch_ids: Sequence[str], *, token: str, now: datetime, lease_until: datetime
    ) -> Sequence[ClaimedDelivery]:
        dialect = connection_of(tx).dialect.name
        claimed = await connection_of(tx).execute(
            update(deliveries)
            .where(*_BATCH_CONDITIONS[dialect](batch_ids), WHERE_PENDING)
            .values(state=DeliveryState.SENDING.value, lease_token=token, lease_until=lease_until, updated_at=now)
            .returning(_d.id, _d.notification_id)
        )
        if not (rows := claimed.all()):
            return []
        details = await connection_of(tx).execute(
            SELECT_CLAIMED[dialect], {"rows": encode_rows([tuple(row) for row in rows])}
        )
        return await _complete(tx, to_claimed(details, lambda _id: (token, lease_until), self._cipher))

    async def reload(self, tx: Transaction, claimed: Sequence[ClaimedDelivery]) -> Sequence[ClaimedDelivery]:
        connection = connection_of(tx)
        details = await connection.execute(
            SELECT_CLAIMED[connection.dialect.name],
            {"rows": encode_rows([(delivery.id, delivery.notification_id) for delivery in claimed])},
        )
        leases = {delivery.id: (delivery.lease_token, delivery.lease_until) for delivery in claimed}
        return await _complete(tx, to_claimed(details, leases.__getitem__, self._cipher))

    async def has_leased(self, tx: Transaction, notification_id: str) -> bool:
        # uses the partial index of rows being sent, which are few; a notification may have many deliveries
        query = (
            select(_d.id)
            .where(WHERE_SENDING, _d.lease_until.is_not(None), _d.notification_id == notification_id)
            .limit(1)
        )
        return await connection_of(tx).scalar(query) is not None

    async def release_by_token(self, tx: Transaction, tokens: Sequence[str], now: datetime) -> int:
        released = await connection_of(tx).execute(
            update(deliveries)
            .where(WHERE_SENDING, _d.lease_token.in_(id_array(tokens)))
            .values(state=DeliveryState.PENDING.value, **_unclaimed_values(now))
        )
        return released.rowcount

    async def reap_expired_leases(self, tx: Transaction, now: datetime) -> LeaseRelease:
        return await self._reap(tx, now, WHERE_SENDING, _d.lease_until < now)

    async def release_all_leases(self, tx: Transaction, now: datetime) -> LeaseRelease:
        return await self._reap(tx, now, WHERE_SENDING)

    async def _reap(self, tx: Transaction, now: datetime, *conditions: Condition) -> LeaseRelease:
        is_poison = _d.crashes >= MAX_WORKER_CRASHES - 1
        # A locked row is being reaped by another process, or its outcome is being recorded. SQLite has one writer and
        # no row locks; SQLAlchemy omits the clause there.
        unlocked = (
            select(_d.notification_id, _d.id)
            .where(*conditions)
            .limit(_REAP_BATCH_SIZE)
            .with_for_update(skip_locked=True)
            .correlate(None)
        )
        statement = (
            update(deliveries)
            .where(tuple_(_d.notification_id, _d.id).in_(unlocked))
            .values(
                crashes=_d.crashes + 1,
                state=case((is_poison, DeliveryState.REFUSED.value), else_=DeliveryState.PENDING.value),
                why=case((is_poison, QUARANTINE_REASON), else_=_d.why),
                **_unclaimed_values(now),
            )
            .returning(_d.state, _d.id, _d.notification_id, _d.user_id, _d.channel)
        )
        counts: Counter[str] = Counter()
        has_more = True
        while has_more:
            rows = (await connection_of(tx).execute(statement)).all()
            counts.update(row.state for row in rows)
            refused = DeliveryState.REFUSED
            quarantined = [EndedDelivery(*row[1:]) for row in rows if row.state == refused.value]
            await self._ended_deliveries.record(tx, quarantined, refused, reason=QUARANTINE_REASON, now=now)
            has_more = len(rows) == _REAP_BATCH_SIZE
        return LeaseRelease(counts[DeliveryState.PENDING.value], counts[DeliveryState.REFUSED.value])


async def _complete(tx: Transaction, claimed: Sequence[ClaimedDelivery]) -> Sequence[ClaimedDelivery]:
    """Return deliveries with what few of them have, and what costs the others no query."""
    return await _with_marks(tx, await _with_suppressions(tx, claimed))


async def _with_marks(tx: Transaction, claimed: Sequence[ClaimedDelivery]) -> Sequence[ClaimedDelivery]:
    """Return deliveries with whether their users have seen the notification, of those that were held."""
    held = {(one.notification_id, one.user_id) for one in claimed if one.held_by is not None}
    seen = await find_seen(tx, held) if held else set()
    if not seen:
        return claimed
    return [structs.replace(one, is_seen=(one.notification_id, one.user_id) in seen) for one in claimed]


async def _with_suppressions(tx: Transaction, claimed: Sequence[ClaimedDelivery]) -> Sequence[ClaimedDelivery]:
    """Return deliveries with the suppressions of their addresses. Those of Web Push have none, and cost no query."""
    targets = {one.target.id for one in claimed if isinstance(one.target, ContactPoint)}
    found = await load_of_targets(tx, targets) if targets else {}
    if not found:
        return claimed
    return [
        structs.replace(one, suppressions=tuple(found.get(one.target.id, ()))) if one.target is not None else one
        for one in claimed
    ]


def _match_batches(batch_ids: Sequence[str]) -> list[Condition]:
    return [_d.batch_id.in_(id_array(batch_ids))]


def _lock_free_batches(batch_ids: Sequence[str]) -> list[Condition]:
    """Skip batches that another worker is claiming, and wait for cancellations in progress.

    One advisory lock per batch costs less than a lock on each row, and prevents a deadlock between two workers that
    claim the same batches in different order.
    """
    requested = id_array(batch_ids).subquery("requested")
    is_free = func.pg_try_advisory_xact_lock(func.hashtextextended(cast(requested.c[0], Text), CANCELLATION_LOCK_ID))
    # `cancel` waits for this lock, which claims share. The details of the claimed rows are read by the next statement,
    # which therefore sees a cancellation that this one has waited for.
    no_cancellation = select(func.pg_advisory_xact_lock_shared(CANCELLATION_LOCK_ID)).scalar_subquery()
    # With an array the plan looks up each batch by index. For a join it may scan all pending rows, because its
    # statistics do not include 100 000 rows that were just added.
    free_batches = func.array(select(requested.c[0]).where(is_free).scalar_subquery())
    return [_d.batch_id == any_(free_batches), no_cancellation.is_not(null())]


_BATCH_CONDITIONS = {"postgresql": _lock_free_batches, "sqlite": _match_batches}


def _unclaimed_values(now: datetime) -> dict[str, object]:
    # without a batch, the next `batch_due` finds the row
    return {"batch_id": None, "due_at": now, "lease_token": None, "lease_until": None, "updated_at": now}
