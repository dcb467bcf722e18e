"""Stores what people did with messages, and what browsers report of them. Events at the same time share a commit."""

from collections.abc import Sequence
from functools import partial

from tidings.micro_batcher import MicroBatcher
from tidings.model.engagement import is_only_link
from tidings.model.receipt import EventCause, ProviderEvent
from tidings.ports.clock import Clock
from tidings.ports.store import Store
from tidings.ports.transaction import retry_on_conflict


class EngagementRecorder:
    """Records events of users. A repeat is counted and has no further effect."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._record: MicroBatcher[ProviderEvent, None] = MicroBatcher(self._record_many, workers=1)

    async def record(self, event: ProviderEvent) -> None:
        """Store an event of a user and a delivery. A click cancels later steps in the same transaction.

        Nothing is stored about an erased user. Raises BackendError, with nothing stored.
        """
        await self._record(event)

    async def _record_many(self, events: Sequence[ProviderEvent]) -> Sequence[None]:
        # an erasure locks events and users in another order
        await retry_on_conflict(partial(self._store_events, events))
        return [None] * len(events)

    async def _store_events(self, events: Sequence[ProviderEvent]) -> None:
        now = self._clock.now()
        async with self._store.transaction() as tx:
            user_ids = sorted({event.user_id for event in events if event.user_id is not None})
            missing = frozenset(await self._store.users.missing_ids(tx, user_ids, lock=True))
            # in one order, so that two processes do not deadlock
            for event in sorted(events, key=lambda event: (event.user_id or "", event.event_id)):
                if event.user_id is None or event.user_id in missing or event.delivery_id is None:
                    continue
                is_new = await self._store.receipts.add(tx, event, now)
                # a click on one of several links may be the first of a scan, and counts when the next step starts
                if is_new and event.cause is EventCause.CLICK and is_only_link(event.code):
                    await self._store.steps.cancel_by_click(tx, event.user_id, event.delivery_id, now)
