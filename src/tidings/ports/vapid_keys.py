"""The keys that identify this server to push services, in the store."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.subscription import VapidKey
from tidings.ports.transaction import Transaction


class VapidKeys(Protocol):
    """The keys of this server, the newest first."""

    async def lock(self, tx: Transaction) -> None:
        """Wait for the lock on the keys and hold it until this transaction ends.

        Afterwards this transaction sees what earlier holders committed, so a caller that adds the first key must read
        the keys again.
        """
        ...

    async def add(self, tx: Transaction, key: VapidKey) -> None: ...
    async def list_all(self, tx: Transaction) -> Sequence[VapidKey]:
        """Return every key, newest first. The first that is not retired is used for new subscriptions."""
        ...

    async def count_subscriptions(self, tx: Transaction) -> Mapping[str, int]:
        """Return the number of subscriptions per key id, those marked gone excluded."""
        ...

    async def retire(self, tx: Transaction, key_id: str, now: datetime) -> bool:
        """Retire a key. Returns False if it is unknown or retired already."""
        ...
