"""The feeds of users: items, whether they are seen, read, archived or snoozed, and counters.

Every change runs under a lock on the user's counters and adjusts them in the same transaction. Locks are taken in this
order: users, counters, items; rows of one kind in the order of the user ids. Every change is idempotent: a repeat
returns no `InboxChange`. A user's own changes take the user's id and ignore items of others.

`refs` are ids of items or of notifications, because a push message names the notification only.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.inbox import InboxChange, InboxCounts, InboxItem, InboxView
from tidings.ports.transaction import Transaction


class Inbox(Protocol):
    """Stores the items of all users."""

    async def add_many(self, tx: Transaction, items: Sequence[InboxItem], now: datetime) -> Sequence[InboxChange]:
        """Store items that are not stored yet, by notification and user. Items of unknown users are left out.

        An item replaces older ones of its user with the same collapse key. The order of their notification ids
        decides, so a late arrival does not replace a newer item.
        """
        ...

    async def page(
        self, tx: Transaction, user_id: str, view: InboxView, *, before: int | None, limit: int
    ) -> Sequence[InboxItem]:
        """Return a page of a view, the latest arrival first. before: position of the last item of the previous page."""
        ...

    async def get_counts(self, tx: Transaction, user_id: str) -> InboxCounts:
        """Return the counters. They include items that are due until `settle` has run."""
        ...

    async def has_due(self, tx: Transaction, user_id: str | None, now: datetime) -> bool:
        """Return whether items of a user expired or return from a snooze, and `settle` has not run since.

        user_id: None = of any user.
        """
        ...

    async def find(self, tx: Transaction, user_id: str, ref: str) -> InboxItem | None:
        """Return an item of the user, None if there is none or it expired, was recalled or replaced."""
        ...

    async def get_position(self, tx: Transaction, user_id: str, item_id: str) -> int | None:
        """Return the position of an item of the user, also of one that is not shown any more. None = unknown."""
        ...

    async def set_seen(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        """Mark items as seen. For a notification whose item has not arrived, it applies when the item arrives."""
        ...

    async def set_read(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        """Mark items as read, which includes seen. It applies to items that have not arrived, too."""
        ...

    async def set_unread(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]: ...
    async def archive(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        """Move items to the archive. Ends their snooze. Items in the archive do not expire."""
        ...

    async def unarchive(
        self, tx: Transaction, user_id: str, refs: Collection[str], now: datetime
    ) -> Sequence[InboxChange]:
        """Move items back to the feed, at their position. Items that have expired remain in the archive."""
        ...

    async def snooze(
        self, tx: Transaction, user_id: str, refs: Collection[str], until: datetime | None, now: datetime
    ) -> Sequence[InboxChange]:
        """Hide active items until an instant, at which they return as unread. None: return snoozed items now.

        An item that returns now keeps its position, and whether it is seen and read.
        """
        ...

    async def read_all(self, tx: Transaction, user_id: str, up_to: str, now: datetime) -> Sequence[InboxChange]:
        """Mark the active items up to one, in the order of arrival, as read. up_to: its id; unknown = no effect."""
        ...

    async def recall(
        self, tx: Transaction, notification_id: str, now: datetime, *, limit: int
    ) -> Sequence[InboxChange]:
        """Remove a notification from the feeds of up to `limit` users. Call it until it returns fewer changes.

        Items of the notification that arrive later are not shown.
        """
        ...

    async def settle(self, tx: Transaction, user_id: str, now: datetime) -> Sequence[InboxChange]:
        """Remove the user's expired items and return those whose snooze ended. A change of the user does so, too."""
        ...

    async def settle_due(self, tx: Transaction, now: datetime, *, limit: int) -> Sequence[InboxChange]:
        """Do the same for up to `limit` users with due items."""
        ...

    async def list_all(self, tx: Transaction, user_id: str, *, after: str | None, limit: int) -> Sequence[InboxItem]:
        """Return all stored items of a user in id order, for an export. after: last id of the previous page."""
        ...

    async def purge(self, tx: Transaction, before: datetime, *, limit: int) -> Sequence[InboxChange]:
        """Delete up to `limit` items that were created before an instant, and old records of recalls.

        Call it until it returns no change.
        """
        ...
