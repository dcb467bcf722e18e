"""Counts refusals of mailboxes during a send as soft bounces, as if the provider had reported them later."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from tidings.flow.record.provider_events import apply_event
from tidings.model.delivery import AttemptResult
from tidings.model.outcome import PermanentFailure
from tidings.model.receipt import EventCause, ProviderEvent
from tidings.model.suppression import SoftBouncePolicy
from tidings.ports.store import Store, Transaction

#: the source of these events, beside the names of providers
SOURCE = "send"


class SoftRefusalRecorder:
    """Stores a soft bounce per delivery that a mailbox refused. One per process."""

    def __init__(self, store: Store, policies: Mapping[str, SoftBouncePolicy]) -> None:
        """policies: how many soft bounces suppress an address, by channel; the others count none."""
        self._store = store
        self._policies = policies

    async def record(self, tx: Transaction, results: Sequence[AttemptResult], now: datetime) -> None:
        """Count the refusals among outcomes, after the last attempt of each delivery."""
        refused = [
            (result.channel, result.target_id, result, result.outcome)
            for result in results
            if isinstance(result.outcome, PermanentFailure)
            and result.outcome.is_soft_bounce
            and result.channel in self._policies
            and result.target_id is not None
        ]
        # in one order, so that two workers do not wait for each other
        for _, target_id, result, outcome in sorted(refused, key=lambda one: one[:2]):
            await self._record_one(tx, target_id, result, outcome, now)

    async def _record_one(
        self, tx: Transaction, target_id: str, result: AttemptResult, outcome: PermanentFailure, now: datetime
    ) -> None:
        point = await self._store.contact_points.get_locked(tx, result.user_id, target_id)
        if point is None:
            # it was removed during the send
            return
        event = ProviderEvent(
            result.channel,
            SOURCE,
            # a delivery counts once, also if its outcome is recorded again
            f"refusal:{result.delivery_id}",
            result.finished_at,
            cause=EventCause.SOFT_BOUNCE,
            delivery_id=result.delivery_id,
            recipient=point.address,
            code=None if outcome.status is None else str(outcome.status),
            detail=outcome.why,
        )
        if await self._store.receipts.add(tx, event, now):
            await apply_event(self._store, tx, event, self._policies[result.channel], now)
