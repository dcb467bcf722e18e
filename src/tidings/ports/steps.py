"""The later steps of notifications: rows that wait, start, and are cancelled by what users and the host do.

Locks are taken in this order: notifications, users, deliveries that are sent, steps, deliveries that are not sent; rows
of one kind in the order of their keys. Whoever changes the counts of a notification after its steps locks it first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from tidings.model.waiting_step import StepEnd, WaitingStep
from tidings.ports.transaction import Transaction

#: (notification id, user id)
Pair = tuple[str, str]
#: (channel, category) → whether no report of the arrival comes, so that what was handed over counts as delivered
DeliveredWhenSent = Callable[[str, str], bool]
#: (notification id, user id, channel)
StepKey = tuple[str, str, str]


class Fulfilment(NamedTuple):
    """Something that happened to a notification for a user, and that may make later steps unnecessary."""

    end: StepEnd
    #: of `delivered`: the channel on which it arrived, which makes only the steps after its own unnecessary
    channel: str | None = None


class Steps(Protocol):
    """Stores the later steps of notifications."""

    async def add(self, tx: Transaction, steps: Sequence[WaitingStep]) -> None: ...
    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        """Return whether `lock_due` would find steps, unless another process starts them."""
        ...

    async def lock_due(self, tx: Transaction, now: datetime, limit: int) -> Mapping[Pair, Sequence[WaitingStep]]:
        """Lock steps that are due, the longest due first. Returns all steps of their notifications and users.

        Their notifications are locked before them, so that the caller may change their counts. Steps that another
        transaction has locked are left out.
        """
        ...

    async def save(self, tx: Transaction, changed: Sequence[WaitingStep]) -> None:
        """Store the new values of locked steps."""
        ...

    async def record_outcomes(
        self, tx: Transaction, pairs: Collection[Pair], now: datetime, *, is_delivered_when_sent: DeliveredWhenSent
    ) -> None:
        """Start the clocks of the steps after those that were handed over, or that ended without."""
        ...

    async def cancel(self, tx: Transaction, pairs: Collection[Pair], end: StepEnd, now: datetime) -> int:
        """Cancel the steps that what the user did makes unnecessary, and what is unsent of them. Returns how many."""
        ...

    async def cancel_by_click(self, tx: Transaction, user_id: str, delivery_id: str, now: datetime) -> int:
        """Cancel the steps that a click in the message of a delivery makes unnecessary. Returns how many."""
        ...

    async def cancel_by_event(
        self, tx: Transaction, event: str, now: datetime, *, subject: str | None, user_id: str | None
    ) -> int:
        """Cancel the steps that a domain event makes unnecessary. Returns how many.

        subject, user_id: what the event is about. It is also recorded for the notifications that await it, whose steps
        are planned later, see `AwaitedEvents`. Those are not counted.
        """
        ...

    async def find_fulfilled(
        self, tx: Transaction, pairs: Collection[Pair], now: datetime
    ) -> Mapping[Pair, Sequence[Fulfilment]]:
        """Return what feeds, receipts and tracked links say of pairs. Those for which nothing happened may be missing.

        Reports of providers and clicks are applied when a step starts, because a report may not name its delivery.
        """
        ...

    async def find_ended(self, tx: Transaction, keys: Collection[StepKey], now: datetime) -> Mapping[StepKey, StepEnd]:
        """Return what cancelled the steps of channels, or makes them unnecessary. The others are left out."""
        ...

    async def list_of(
        self, tx: Transaction, notification_id: str, *, user_ids: Collection[str] | None = None, limit: int
    ) -> Sequence[WaitingStep]:
        """Return the steps of a notification by user and step. user_ids: only those of these users."""
        ...

    async def list_by_user(
        self, tx: Transaction, user_id: str, *, after: tuple[str, int] | None, limit: int
    ) -> Sequence[WaitingStep]:
        """Return a page of a user's steps. after: notification id and step of the last of the page before."""
        ...
