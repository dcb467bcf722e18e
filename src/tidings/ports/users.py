"""The port of users and their preferences."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.preference import Preference
from tidings.model.user import ContactAddress, User
from tidings.ports.transaction import Transaction


class Users(Protocol):
    """The users of the host product, with what they prefer."""

    async def upsert(self, tx: Transaction, people: Sequence[User], now: datetime) -> Sequence[bool]:
        """Insert or replace users. Returns, in order, whether each is new. Of concurrent calls, one inserts a user."""
        ...

    async def get(self, tx: Transaction, user_id: str, *, lock: bool = False) -> User | None:
        """Return a user. lock: keep the user from being erased until the transaction ends (see `missing_ids`)."""
        ...

    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[User]: ...
    async def erase(self, tx: Transaction, user_id: str) -> bool:
        """Delete a user and all stored data of the user. Returns False if the user is unknown."""
        ...

    async def lock_for_erasure(self, tx: Transaction, user_id: str) -> bool:
        """Wait for the transactions that hold the user, and keep others from it. Returns False for an unknown user.

        Call it before any row that refers to the user is deleted. Then an erasure and a transaction that stores
        something about the user cannot deadlock: both lock the user first.
        """
        ...

    async def missing_ids(self, tx: Transaction, user_ids: Sequence[str], *, lock: bool = False) -> Sequence[str]:
        """Return the ids that belong to no user, in the order given.

        lock: keep the other users from being erased until the transaction ends. Required before rows are stored that
        refer to a user: without it, a concurrent erasure makes the statement fail.
        """
        ...

    async def find_by_address(
        self, tx: Transaction, addresses: Collection[ContactAddress]
    ) -> Mapping[ContactAddress, tuple[str, int]]:
        """Return, for each address in use, the first user's id and the number of users with that address."""
        ...

    async def get_preferences(self, tx: Transaction, user_id: str) -> Sequence[Preference]:
        """Return the entries of a user, in the order of their keys."""
        ...

    async def set_preferences(self, tx: Transaction, user_id: str, choices: Sequence[Preference]) -> None:
        """Add entries, and change those of the same key. The others are kept."""
        ...

    async def remove_preferences(self, tx: Transaction, user_id: str, entries: Sequence[Preference]) -> None:
        """Remove the entries of the same keys."""
        ...

    async def lock_preferences(self, tx: Transaction, user_id: str) -> bool:
        """Wait for concurrent changes of a user's preferences. Returns False for an unknown user."""
        ...
