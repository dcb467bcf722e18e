"""Suppressions as operators change them, over HTTP and on the command line."""

from collections.abc import Sequence
from datetime import datetime

from tidings.errors import Conflict, NotFound
from tidings.model.suppression import ALL, Suppression, SuppressionFilter, SuppressionReason
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction

#: suppressions of one address that are lifted together: one per category, sender and reason
MAX_PER_ADDRESS = 500


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

    async def lift_address(
        self,
        tx: Transaction,
        channel: str,
        address: str,
        *,
        scope: str | None,
        category: str | None,
        by: str,
        reason: str,
    ) -> Sequence[Suppression]:
        """Lift the active suppressions of an address, and return them. scope, category: only those of these.

        Raises NotFound if there is none, and as `lift`.
        """
        selected = SuppressionFilter(channel, address)
        found = await self._store.suppressions.page(
            tx, selected, before=None, limit=MAX_PER_ADDRESS, now=self._clock.now()
        )
        matching = [one for one in found if category in (None, one.category) and scope in (None, one.scope)]
        if not matching:
            raise NotFound("This address is not suppressed.", code="unknown_suppression")
        return [await self.lift(tx, one.id, by=by, reason=reason) for one in matching]
