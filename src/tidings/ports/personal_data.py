"""Personal data in the store beside profile, preferences and contact points: the material of an export."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tidings.model.notification import Notification
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.ports.transaction import Transaction


@dataclass(frozen=True, slots=True)
class LimitCounter:
    """The instants at which notifications were counted for a user's rate limit."""

    #: code of the category with its own limit; empty = all other categories together
    scope: str
    counted_at: Sequence[datetime]


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A request of the user's own browser whose response is stored for repeats."""

    idempotency_key: str
    created_at: datetime


class PersonalData(Protocol):
    """Reads the stored data of a user. `Users.erase` deletes it."""

    async def list_limits(self, tx: Transaction, user_id: str) -> Sequence[LimitCounter]: ...
    async def list_idempotent_calls(self, tx: Transaction, user_id: str) -> Sequence[KeyedCall]: ...
    async def list_unplanned(self, tx: Transaction, user_id: str) -> Sequence[Notification]:
        """Return the notifications whose audience names the user and that are not planned yet."""
        ...

    async def list_saved_audiences(self, tx: Transaction, user_id: str) -> Sequence[str]:
        """Return the names of the saved audiences that name the user's id."""
        ...

    async def list_recurring(self, tx: Transaction, user_id: str) -> Sequence[str]:
        """Return the names of the recurring notifications whose audience names the user's id."""
        ...

    async def list_deliveries(
        self, tx: Transaction, user_id: str, *, after: str | None, limit: int
    ) -> Sequence[DeliveryTrace]:
        """Return the user's deliveries with their attempts in id order, which is the order of planning."""
        ...

    async def list_skips(self, tx: Transaction, user_id: str, *, after: str | None, limit: int) -> Sequence[SkipTrace]:
        """Return the user's skips in id order."""
        ...
