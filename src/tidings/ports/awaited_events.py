"""Domain events that notifications await before their later steps are planned.

An event and a page that is planned at the same time lock the notification, so whichever is second sees the other.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.awaited_event import AwaitedEvent, OccurredEvents
from tidings.ports.steps import Pair
from tidings.ports.transaction import Transaction

#: (notification id, event, user id as stored)
AwaitedKey = tuple[str, str, str]


class AwaitedEvents(Protocol):
    """Stores what notifications await. A row is removed when nothing of its notification is left to be planned."""

    async def add(self, tx: Transaction, awaited: Sequence[AwaitedEvent]) -> None:
        """Store what stored notifications await. What is stored already stays as it is."""
        ...

    async def record(
        self, tx: Transaction, event: str, now: datetime, *, subject: str | None, user_id: str | None
    ) -> None:
        """Record a domain event for the notifications that await it. subject, user_id: what it is about."""
        ...

    async def find_occurred(self, tx: Transaction, pairs: Collection[Pair]) -> Mapping[Pair, OccurredEvents]:
        """Return which events happened, by notification and user. Those without one are left out.

        The caller has locked the notifications.
        """
        ...

    async def remove_planned(self, tx: Transaction, notification_ids: Collection[str]) -> None:
        """Remove what completely planned notifications awaited, except for the users for whom a digest collects."""
        ...

    async def remove(self, tx: Transaction, pairs: Collection[Pair]) -> None:
        """Remove what notifications awaited for users."""
        ...

    async def list_stale(self, tx: Transaction, *, limit: int) -> Sequence[AwaitedKey]:
        """Return rows of erased users, and of notifications of which nothing is left to plan.

        Processes of a version without awaited events leave them during an upgrade. The whole table may be read.
        """
        ...

    async def remove_stale(self, tx: Transaction, keys: Collection[AwaitedKey]) -> int:
        """Remove those of the rows that are stale. Returns how many. Rows that are locked are left out."""
        ...

    async def list_by_user(
        self, tx: Transaction, user_id: str, *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[AwaitedEvent]:
        """Return a page of what is stored for a user. after: notification id and event of the last of the previous."""
        ...
