"""The health of contact points, and what they missed while they were disabled."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.contact_health import ContactHealth, ContactResult, DisabledContactPoint, MissedMessages
from tidings.model.contact_point import ContactPoint
from tidings.ports.transaction import Transaction


class ContactHealthStore(Protocol):
    """Failures of contact points in a row, per contact point."""

    async def record(
        self, tx: Transaction, results: Sequence[ContactResult], now: datetime
    ) -> Sequence[DisabledContactPoint]:
        """Store what attempts say of contact points. Returns those that are disabled by it.

        A contact point that refuses, or to which every attempt failed for `disable_after`, is disabled, unless it was
        registered again since it was tried.
        """
        ...

    async def get(self, tx: Transaction, contact_point_id: str) -> ContactHealth: ...

    async def reset(self, tx: Transaction, contact_point_id: str) -> None:
        """Forget the failures of a contact point. What it missed is kept."""
        ...

    async def list_missed(
        self, tx: Transaction, point: ContactPoint, since: datetime, *, limit: int, now: datetime
    ) -> MissedMessages:
        """Return what a contact point missed since an instant and what has neither expired nor been withdrawn."""
        ...

    async def replay(self, tx: Transaction, point: ContactPoint, missed: MissedMessages, now: datetime) -> None:
        """Make missed messages due again. Those that were not planned for the contact point are planned."""
        ...

    async def clear_missed(self, tx: Transaction, contact_point_id: str) -> None:
        """Note that nothing is missed any more."""
        ...
