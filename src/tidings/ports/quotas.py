"""Quotas: amounts that are counted per key and day, exactly under concurrency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from tidings.ports.transaction import Transaction


@dataclass(frozen=True, slots=True)
class QuotaAmount:
    """An amount that is counted under a key, if the day's sum stays within the maximum."""

    key: str
    amount: int
    maximum: int


class Quotas(Protocol):
    """The amounts of each day, in UTC."""

    async def consume(self, tx: Transaction, amounts: Sequence[QuotaAmount], day: date) -> str | None:
        """Count all amounts, or none of them. Return the key whose maximum forbids it, None if they were counted.

        Concurrent calls wait for each other per key, so that no sum exceeds its maximum.
        """
        ...

    async def release(self, tx: Transaction, amounts: Sequence[QuotaAmount], day: date) -> None:
        """Take back amounts that were counted on a day."""
        ...

    async def lock_sum(self, tx: Transaction, key: str, day: date, *, maximum: int) -> int:
        """Return the sum of a key. Other transactions that lock it wait until the end of this one.

        maximum: stored with the sum, for operators.
        """
        ...

    async def add_to_sum(self, tx: Transaction, key: str, day: date, amount: int) -> None:
        """Count an amount under a key that was locked before."""
        ...

    async def list_sums(self, tx: Transaction, day: date) -> Mapping[str, int]:
        """Return key → sum of a day."""
        ...

    async def purge(self, tx: Transaction, before: date) -> int:
        """Delete the sums of days before a date. Returns how many."""
        ...
