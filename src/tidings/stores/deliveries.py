"""Deliveries on their way: planned and recorded here; claimed, woken and read back by the parts this is made of."""

from collections.abc import Sequence
from datetime import datetime

from tidings.model.delivery import Attempted, Planned, Skipped
from tidings.model.outcome import Gone
from tidings.model.subscription import SubscriptionState
from tidings.ports.store import Transaction
from tidings.stores.batches import Batches
from tidings.stores.claims import Claims
from tidings.stores.connection import of
from tidings.stores.delivery_rows import ADD, RECORD, RECORD_TRIES, SKIP, new_row, outcome_row, skipped_row, try_row
from tidings.stores.json_rows import encoded
from tidings.stores.sealing import Sealer
from tidings.stores.subscriptions import SqlSubscriptions
from tidings.stores.traces import Traces


class SqlDeliveries(Claims, Batches, Traces):
    """Implements `ports.store.Deliveries`."""

    def __init__(self, sealer: Sealer, subscriptions: SqlSubscriptions) -> None:
        super().__init__(sealer)
        self._subscriptions = subscriptions

    async def add(self, tx: Transaction, planned: Sequence[Planned], skipped: Sequence[Skipped], now: datetime) -> None:
        if planned:
            await of(tx).execute(ADD, {"rows": encoded([new_row(one) for one in planned]), "now": now})
        if skipped:
            await of(tx).execute(SKIP, {"rows": encoded([skipped_row(one, now) for one in skipped]), "now": now})

    async def record(self, tx: Transaction, attempted: Sequence[Attempted], now: datetime) -> int:
        if not attempted:
            return 0
        outcomes = encoded([outcome_row(one) for one in attempted])
        done = await of(tx).execute(RECORD, {"rows": outcomes, "now": now})
        tries = [try_row(one) for one in attempted if not isinstance(one.outcome, Skipped)]
        if tries:
            await of(tx).execute(RECORD_TRIES[of(tx).dialect.name], {"rows": encoded(tries)})
        for remedy, state in (("delete", SubscriptionState.GONE), ("rebind", SubscriptionState.REBIND)):
            dead = [
                one.target_id
                for one in attempted
                if isinstance(one.outcome, Gone) and one.outcome.remedy == remedy and one.target_id
            ]
            if dead:
                await self._subscriptions.mark(tx, dead, state, now)
        return done.rowcount
