"""Events of providers and suppressed addresses, in the store."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.receipt import EventCause, ProviderEvent, Receipt
from tidings.model.suppression import Suppression, SuppressionFilter, SuppressionReason
from tidings.ports.transaction import Transaction


class Receipts(Protocol):
    """Every event that a provider reported."""

    async def add(self, tx: Transaction, event: ProviderEvent, now: datetime) -> bool:
        """Store an event. Returns False for a repeat, which is only counted."""
        ...

    async def list_of_message(self, tx: Transaction, event: ProviderEvent) -> Sequence[Receipt]:
        """Return the events about the same message, by the provider's id or by ours, the oldest first."""
        ...

    async def list_of_address(
        self, tx: Transaction, channel: str, address: str, *, since: datetime, limit: int
    ) -> Sequence[Receipt]:
        """Return the newest events about an address that occurred after an instant, the newest first."""
        ...

    async def page(
        self, tx: Transaction, *, channel: str | None, cause: EventCause | None, before: str | None, limit: int
    ) -> Sequence[Receipt]:
        """Return a page, newest first, with the addresses."""
        ...

    async def list_of_user(self, tx: Transaction, user_id: str) -> Sequence[Receipt]:
        """Return the events about the addresses of a user, the oldest first."""
        ...

    async def record_unanswered(self, tx: Transaction, channel: str, now: datetime) -> None:
        """Note that a provider took a message, unless one without a later event is noted already."""
        ...

    async def record_event(self, tx: Transaction, channel: str) -> None:
        """Note that a provider of a channel reported something."""
        ...

    async def find_unanswered(self, tx: Transaction, channel: str, before: datetime) -> datetime | None:
        """Return since when a channel's messages are without any event, None if since later than `before`, or not."""
        ...

    async def purge(self, tx: Transaction, before: datetime) -> int:
        """Delete events that were received before an instant. Returns how many."""
        ...


class Suppressions(Protocol):
    """Addresses to which nothing more is sent."""

    async def add(self, tx: Transaction, suppression: Suppression) -> Suppression:
        """Store a suppression, or count one more cause of it. One that was lifted after the cause stays lifted.

        `suppression.address` is required. Returns the stored one.
        """
        ...

    async def get(self, tx: Transaction, suppression_id: str) -> Suppression | None: ...

    async def page(
        self, tx: Transaction, selected: SuppressionFilter, *, before: str | None, limit: int, now: datetime
    ) -> Sequence[Suppression]:
        """Return a page, newest first. before: the last id of the previous page."""
        ...

    async def lift(self, tx: Transaction, suppression_id: str, *, by: str, reason: str, now: datetime) -> bool:
        """Lift a suppression. Returns False if it was lifted already, or is unknown."""
        ...

    async def lift_matching(
        self,
        tx: Transaction,
        channel: str,
        address: str,
        reasons: Collection[SuppressionReason],
        *,
        observed_before: datetime,
        senders: Collection[str] | None,
        reason: str,
        now: datetime,
    ) -> int:
        """Lift the suppressions of an address for some reasons, whose cause was last observed before an instant.

        senders: only those for one of these, None = for any. Returns how many.
        """
        ...

    async def list_of_targets(
        self, tx: Transaction, target_ids: Collection[str]
    ) -> Mapping[str, Sequence[Suppression]]:
        """Return contact point id → the suppressions of its address that were not lifted, without the addresses."""
        ...

    async def list_of_user(self, tx: Transaction, user_id: str) -> Sequence[Suppression]:
        """Return the suppressions of the addresses of a user, ended ones included."""
        ...
