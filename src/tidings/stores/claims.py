"""Claims: who may send a delivery now. Taken under a lease, given back, taken away from workers that died."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import ColumnElement, Text, TextClause, any_, case, cast, func, null, select, tuple_, update

from tidings.model.delivery import DeliveryState, Due
from tidings.ports.store import MAX_CRASHES, Released, Transaction
from tidings.stores.connection import of
from tidings.stores.delivery_rows import DUE_OF, due
from tidings.stores.json_list import json_ids
from tidings.stores.json_rows import encoded
from tidings.stores.schema import PENDING, SENDING, deliveries
from tidings.stores.sealing import Sealer

_d = deliveries.c
Condition: TypeAlias = ColumnElement[bool] | TextClause
#: what is said of a delivery that workers die of
QUARANTINED = f"quarantined: {MAX_CRASHES} workers died while sending it"
#: key of the advisory lock between claims and cancellations: "tidings" in ASCII, and a 1
CANCELLING = 0x74_69_64_69_6E_67_73_01


#: rows taken back by one statement: few enough for the planner to look each up by its key
_RELEASED_TOGETHER = 1000


class Claims:
    """The part of `ports.store.Deliveries` that decides who sends."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def claim(
        self, tx: Transaction, batch_ids: Sequence[str], *, token: str, now: datetime, lease_until: datetime
    ) -> Sequence[Due]:
        dialect = of(tx).dialect.name
        claimed = await of(tx).execute(
            update(deliveries)
            .where(*_UNHELD[dialect](batch_ids), PENDING)
            .values(state=DeliveryState.SENDING.value, lease_token=token, lease_until=lease_until, updated_at=now)
            .returning(_d.id, _d.notification_id)
        )
        if not (rows := claimed.all()):
            return []
        found = await of(tx).execute(DUE_OF[dialect], {"rows": encoded([tuple(row) for row in rows])})
        return [due(row, token, lease_until, self._sealer) for row in found]

    async def any_sending(self, tx: Transaction, notification_id: str) -> bool:
        # among all that is being sent, which is little, instead of among all of the notification
        query = (
            select(_d.id).where(SENDING, _d.lease_until.is_not(None), _d.notification_id == notification_id).limit(1)
        )
        return await of(tx).scalar(query) is not None

    async def give_back(self, tx: Transaction, tokens: Sequence[str], now: datetime) -> int:
        given_back = await of(tx).execute(
            update(deliveries)
            .where(SENDING, _d.lease_token.in_(json_ids(tokens)))
            .values(state=DeliveryState.PENDING.value, **_unclaimed(now))
        )
        return given_back.rowcount

    async def release_expired(self, tx: Transaction, now: datetime) -> Released:
        return await _released(tx, now, SENDING, _d.lease_until < now)

    async def release_all(self, tx: Transaction, now: datetime) -> Released:
        return await _released(tx, now, SENDING)


async def _released(tx: Transaction, now: datetime, *which: Condition) -> Released:
    poison = _d.crashes >= MAX_CRASHES - 1
    # Whoever has locked a row is taking it back too, or recording its outcome. SQLite, with one writer at a time, reads
    # nothing of this.
    free = (
        select(_d.notification_id, _d.id)
        .where(*which)
        .limit(_RELEASED_TOGETHER)
        .with_for_update(skip_locked=True)
        .correlate(None)
    )
    statement = (
        update(deliveries)
        .where(tuple_(_d.notification_id, _d.id).in_(free))
        .values(
            crashes=_d.crashes + 1,
            state=case((poison, DeliveryState.REFUSED.value), else_=DeliveryState.PENDING.value),
            why=case((poison, QUARANTINED), else_=_d.why),
            **_unclaimed(now),
        )
        .returning(_d.state)
    )
    found: Counter[str] = Counter()
    more = True
    while more:
        states = (await of(tx).scalars(statement)).all()
        found.update(states)
        more = len(states) == _RELEASED_TOGETHER
    return Released(found[DeliveryState.PENDING.value], found[DeliveryState.REFUSED.value])


def _every(batch_ids: Sequence[str]) -> list[Condition]:
    return [_d.batch_id.in_(json_ids(batch_ids))]


def _unheld(batch_ids: Sequence[str]) -> list[Condition]:
    """Leave out batches that another worker is claiming at this moment, and wait for cancellations that are under way.

    A lock for each batch costs less than to lock each row before it is updated, and keeps two workers who want the same
    batches in another order from waiting for each other.
    """
    wanted = json_ids(batch_ids).subquery("wanted")
    free = func.pg_try_advisory_xact_lock(func.hashtextextended(cast(wanted.c[0], Text), CANCELLING))
    # Shared among claims, and waited for by `cancel` (see there). What is claimed is read by the next statement, which
    # so sees a cancellation that this one has waited for.
    calm = select(func.pg_advisory_xact_lock_shared(CANCELLING)).scalar_subquery()
    # As one array each batch is looked up, whatever the planner believes. As a join it may be looked for among all that
    # waits: of a hundred thousand that were added a moment ago the planner has not heard.
    found = func.array(select(wanted.c[0]).where(free).scalar_subquery())
    return [_d.batch_id == any_(found), calm.is_not(null())]


_UNHELD = {"postgresql": _unheld, "sqlite": _every}


def _unclaimed(now: datetime) -> dict[str, object]:
    # without a batch the row waits in the database, where the next wake-up finds it
    return {"batch_id": None, "due_at": now, "lease_token": None, "lease_until": None, "updated_at": now}
