"""Suppressions as operators change them, over HTTP and on the command line."""

from datetime import datetime

from tidings.errors import Conflict, NotFound
from tidings.model.suppression import ALL, Suppression, SuppressionReason
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction


class SuppressionService:
    """Adds and lifts suppressions in the transactions of its callers."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def add(
        self,
        tx: Transaction,
        *,
        suppression_id: str,
        channel: str,
        address: str,
        source: str,
        author: str,
        reason: SuppressionReason = SuppressionReason.MANUAL,
        category: str = ALL,
        expires_at: datetime | None = None,
    ) -> Suppression:
        """Suppress an address, which is in the channel's canonical form. Returns the stored suppression."""
        now = self._clock.now()
        return await self._store.suppressions.add(
            tx,
            Suppression(
                suppression_id,
                channel,
                reason,
                address,
                now,
                now,
                category=category,
                source=source,
                author=author,
                expires_at=expires_at,
            ),
        )

    async def lift(self, tx: Transaction, suppression_id: str, *, by: str, reason: str) -> Suppression:
        """Lift a suppression, and return it. Repeating the call changes nothing.

        Raises NotFound, or Conflict for an opt-out with the provider, which would refuse the messages all the same.
        """
        found = await self._store.suppressions.get(tx, suppression_id)
        if found is None:
            raise NotFound("There is no suppression with this id.", code="unknown_suppression")
        if found.reason is SuppressionReason.PROVIDER_OPT_OUT:
            raise Conflict(
                "The provider refuses messages to this number until its owner answers START; ask the owner to do so.",
                code="opted_out_with_provider",
            )
        await self._store.suppressions.lift(tx, suppression_id, by=by, reason=reason, now=self._clock.now())
        lifted = await self._store.suppressions.get(tx, suppression_id)
        assert lifted is not None, "it was read in this transaction"
        return lifted
