"""Deliveries on their way: planned, claimed under a lease, recorded, given back."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, insert, select, update

from tidings.model.delivery import Attempted, DeliveryState, Due, Planned, Skipped
from tidings.model.ids import new_id
from tidings.model.outcome import Gone
from tidings.model.priority import Lane
from tidings.model.subscription import SubscriptionState
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.delivery_rows import ADD, DUE, RECORD, RECORD_TRIES, due, new_row, outcome_row, skipped_row, try_row
from tidings.stores.json_list import json_list
from tidings.stores.json_rows import encoded
from tidings.stores.schema import NO_ID, PENDING, SENDING, WAITING, deliveries, skips
from tidings.stores.sealing import Sealer
from tidings.stores.subscriptions import SqlSubscriptions
from tidings.stores.traces import Traces

_d = deliveries.c


class SqlDeliveries(Traces):
    """Implements `ports.store.Deliveries`."""

    def __init__(self, sealer: Sealer, subscriptions: SqlSubscriptions) -> None:
        self._sealer = sealer
        self._subscriptions = subscriptions

    async def add(self, tx: Transaction, planned: Sequence[Planned], skipped: Sequence[Skipped], now: datetime) -> None:
        if planned:
            await of(tx).execute(ADD, {"rows": encoded([new_row(one) for one in planned]), "now": now})
        if skipped:
            await of(tx).execute(insert(skips), [skipped_row(one, now) for one in skipped])

    async def claim(
        self, tx: Transaction, batch_ids: Sequence[str], *, token: str, now: datetime, lease_until: datetime
    ) -> Sequence[Due]:
        claimed = await of(tx).scalars(
            update(deliveries)
            .where(_d.batch_id.in_(json_list(batch_ids)), PENDING)
            .values(state=DeliveryState.SENDING.value, lease_token=token, lease_until=lease_until, updated_at=now)
            .returning(_d.id)
        )
        ids = claimed.all()
        if not ids:
            return []
        rows = await of(tx).execute(DUE.where(_d.id.in_(json_list(ids))))
        return [due(row, token, lease_until, self._sealer) for row in rows]

    async def record(self, tx: Transaction, attempted: Sequence[Attempted], now: datetime) -> int:
        if not attempted:
            return 0
        outcomes = encoded([outcome_row(one) for one in attempted])
        done = await of(tx).execute(RECORD, {"rows": outcomes, "now": now})
        tries = [try_row(one) for one in attempted if not isinstance(one.outcome, Skipped)]
        if tries:
            await of(tx).execute(RECORD_TRIES, {"rows": encoded(tries)})
        for remedy, state in (("delete", SubscriptionState.GONE), ("rebind", SubscriptionState.REBIND)):
            dead = [
                one.target_id
                for one in attempted
                if isinstance(one.outcome, Gone) and one.outcome.remedy == remedy and one.target_id
            ]
            if dead:
                await self._subscriptions.mark(tx, dead, state, now)
        return done.rowcount

    async def any_due(self, tx: Transaction, now: datetime) -> bool:
        return await of(tx).scalar(select(_d.id).where(WAITING, _d.due_at <= now).limit(1)) is not None

    async def wake_due(self, tx: Transaction, now: datetime, limit: int) -> Sequence[Task]:
        due = await of(tx).execute(
            select(_d.id, _d.lane).where(WAITING, _d.due_at <= now).order_by(_d.due_at).limit(limit)
        )
        by_lane: dict[str, list[str]] = {}
        for delivery_id, lane in due:
            by_lane.setdefault(lane, []).append(delivery_id)
        tasks = []
        for lane, ids in by_lane.items():
            batch_id = new_id(now)
            await of(tx).execute(
                update(deliveries).where(_d.id.in_(json_list(ids))).values(batch_id=batch_id, updated_at=now)
            )
            tasks.append(Task(new_id(now), TaskKind.DELIVER, batch_id, Lane(lane), now))
        return tasks

    async def give_back(self, tx: Transaction, tokens: Sequence[str], now: datetime) -> int:
        given_back = await of(tx).execute(
            update(deliveries).where(SENDING, _d.lease_token.in_(json_list(tokens))).values(_given_back(now))
        )
        return given_back.rowcount

    async def release_expired(self, tx: Transaction, now: datetime) -> int:
        given_back = await of(tx).execute(
            update(deliveries).where(SENDING, _d.lease_until < now).values(_given_back(now))
        )
        return given_back.rowcount

    async def release_all(self, tx: Transaction, now: datetime) -> int:
        given_back = await of(tx).execute(update(deliveries).where(SENDING).values(_given_back(now)))
        return given_back.rowcount

    async def waiting_batches(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[Task]:
        query = (
            select(_d.batch_id, func.min(_d.lane), func.min(_d.due_at))
            .where(PENDING, _d.batch_id > (after or NO_ID))
            .group_by(_d.batch_id)
            .order_by(_d.batch_id)
            .limit(limit)
        )
        return [Task(row[0], TaskKind.DELIVER, row[0], Lane(row[1]), row[2]) for row in await of(tx).execute(query)]


def _given_back(now: datetime) -> dict[str, object]:
    # without a batch the row waits in the database, where the next wake-up finds it
    return {
        "state": DeliveryState.PENDING.value,
        "batch_id": None,
        "due_at": now,
        "lease_token": None,
        "lease_until": None,
        "updated_at": now,
    }
