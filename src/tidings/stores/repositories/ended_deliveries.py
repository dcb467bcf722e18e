"""What follows when deliveries end without the outcome of a send: status events, and the clocks of later steps."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from tidings.model.delivery import DeliveryState
from tidings.model.status_event import build_state_event
from tidings.ports.steps import Pair
from tidings.ports.transaction import Transaction
from tidings.stores.repositories.status_events import SqlStatusEvents
from tidings.stores.repositories.steps import SqlSteps


class EndedDelivery(NamedTuple):
    """A delivery that ended."""

    id: str
    notification_id: str
    user_id: str
    channel: str


class EndedDeliveries:
    """Every statement that ends deliveries calls it, except for the record of outcomes, which has more to record."""

    def __init__(self, status_events: SqlStatusEvents, steps: SqlSteps) -> None:
        self._status_events = status_events
        self._steps = steps

    async def lock_steps(self, tx: Transaction, pairs: Collection[Pair]) -> None:
        """Lock the later steps of deliveries that are not being sent, before those are ended. See `ports.steps`."""
        await self._steps.lock(tx, pairs)

    async def record(
        self, tx: Transaction, ended: Sequence[EndedDelivery], state: DeliveryState, *, reason: str, now: datetime
    ) -> None:
        """Record that nothing of deliveries is sent any more. The steps after them do not wait for them."""
        if not ended:
            return
        pairs = {(one.notification_id, one.user_id) for one in ended}
        # nothing was handed over, so nothing was delivered
        await self._steps.record_outcomes(tx, pairs, now, is_delivered_when_sent=lambda *_: False)
        if self._status_events.is_enabled:
            events = [build_state_event(state, *one, reason=reason, now=now) for one in ended]
            await self._status_events.add(tx, events, now)
