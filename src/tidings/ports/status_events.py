"""The outbox of status events for the host product."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.status_event import StatusEventBatch
from tidings.ports.transaction import Transaction


class StatusEvents(Protocol):
    """Batches of events. The store adds events in the transaction of their cause, if they are enabled."""

    async def has_due(self, tx: Transaction, now: datetime) -> bool: ...

    async def claim_due(
        self, tx: Transaction, now: datetime, *, hidden_until: datetime, limit: int
    ) -> Sequence[StatusEventBatch]:
        """Return the batches that are due, the oldest first, and count an attempt.

        No other worker claims them before `hidden_until`, when those that were neither removed nor deferred are due.
        """
        ...

    async def remove(self, tx: Transaction, ids: Sequence[str]) -> None: ...
    async def defer(self, tx: Transaction, batch_id: str, due_at: datetime) -> None: ...

    async def purge(self, tx: Transaction, created_before: datetime) -> int:
        """Delete batches that are too old. Returns the number of their events."""
        ...
