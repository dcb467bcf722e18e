"""Digests: windows that collect notifications for users, and their items.

Locks are taken in this order: notifications, users, digests, rate limits; rows of one kind in the order of their ids or
keys.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.digest import ClosedDigest, CollectedItem, Digest, DigestItem, DigestKey, DigestState, DueDigests
from tidings.ports.transaction import Transaction


class OpenDigest(Protocol):
    """The open digest of a key."""

    @property
    def digest_id(self) -> str: ...
    @property
    def is_new(self) -> bool:
        """Whether this call opened it."""
        ...


class Digests(Protocol):
    """Stores digests and their items."""

    async def open(
        self, tx: Transaction, items: Sequence[CollectedItem], now: datetime
    ) -> Mapping[DigestKey, OpenDigest]:
        """Open or extend the digests of items, in one statement, and count the items. Unknown users are left out.

        Of a digest that is opened, the first item with `first_at_once` is not counted.
        """
        ...

    async def add_items(self, tx: Transaction, items: Sequence[CollectedItem]) -> None:
        """Store items whose `digest_id` is set. Their notifications must be stored."""
        ...

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        """Return whether a digest is due to close."""
        ...

    async def lock_due(self, tx: Transaction, now: datetime, limit: int) -> DueDigests:
        """Lock up to `limit` due digests, the longest due first, with the notifications of their items and their users.

        Leaves out those that another transaction holds.
        """
        ...

    async def close(self, tx: Transaction, closed: Sequence[ClosedDigest], now: datetime) -> None:
        """Close locked digests, and store what became of their items."""
        ...

    async def list_page(
        self,
        tx: Transaction,
        *,
        before: str | None,
        limit: int,
        user_id: str | None = None,
        key: str | None = None,
        state: DigestState | None = None,
    ) -> Sequence[Digest]:
        """Return a page, newest first. before: the last id of the previous page."""
        ...

    async def list_items(self, tx: Transaction, digest_ids: Collection[str]) -> Sequence[DigestItem]:
        """Return the items of digests, in the order of (digest, accepted at, notification id)."""
        ...

    async def list_of_notification(
        self, tx: Transaction, notification_id: str, *, user_id: str | None, after: str | None, limit: int
    ) -> Sequence[tuple[DigestItem, Digest]]:
        """Return the items of a notification with their digests, in the order of users.

        user_id: only of this user. after: the last user of the previous page.
        """
        ...

    async def find_by_notification(self, tx: Transaction, notification_id: str) -> Digest | None:
        """Return the digest that became a notification."""
        ...

    async def count_open(self, tx: Transaction, *, limit: int) -> int:
        """Return the number of open digests, at most `limit`."""
        ...

    async def purge(self, tx: Transaction, closed_before: datetime) -> int:
        """Delete digests that closed before an instant. Returns how many."""
        ...
