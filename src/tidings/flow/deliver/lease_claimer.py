"""Claims deliveries under a lease, loads the data they need, sends them, and releases those that were not sent.

If a lease expires, each of its deliveries counts a worker crash. Deliveries that are not sent for another reason must
therefore be released, not left to the lease.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from tidings.flow.catalog import Catalog
from tidings.flow.deliver.preflight import MAX_AUDIENCE_STALENESS, DeliveryJob, is_stale
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.membership import find_former_members, has_explicit_users
from tidings.flow.notifications import NotificationCache
from tidings.model.delivery import AttemptResult, ClaimedDelivery
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.ports.clock import Clock
from tidings.ports.steps import Pair
from tidings.ports.store import Store


class DeliveryRunner:
    """Claims and sends batches of deliveries. One per process."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        *,
        lease_duration: timedelta,
        notification_cache: NotificationCache,
        bulk_lock: asyncio.Lock,
    ) -> None:
        """Create the deliver stage.

        lease_duration: how long a claim is valid. notification_cache: its notifications are not read again; their state
        and cursor may be stale. bulk_lock: held for each claim that is not urgent.
        """
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._lease_duration = lease_duration
        self._notification_cache = notification_cache
        self._bulk_lock = bulk_lock
        #: lease tokens with unsent deliveries, to be released after the outcomes of the others are written …
        self._tokens_to_release_after_write: list[str] = []
        #: … or at any time, because nothing was sent under them
        self._tokens_to_release: list[str] = []
        self._isolation_lock = asyncio.Lock()
        #: lease token of the delivery that is sent in isolation, and whether its outcome is written
        self._isolated_lease_token = ""
        self._isolated_outcome_written = asyncio.Event()

    async def deliver(self, batch_ids: Sequence[str], sender: DeliverySender, *, urgent: bool = False) -> None:
        """Claim the deliveries of batches and send them. urgent: throttle other sends during the claim."""
        await self._claim_and_send(batch_ids, sender, new_id(self._clock.now()), urgent=urgent)

    async def deliver_separately(self, batch_id: str, sender: DeliverySender, *, urgent: bool = False) -> None:
        """Send a delivery in isolation because a worker died while it sent it.

        This process sends one such delivery at a time and waits until its outcome is written. If the process dies too,
        no other delivery of this kind counts the crash.
        """
        async with self._isolation_lock:
            self._isolated_lease_token = new_id(self._clock.now())
            self._isolated_outcome_written.clear()
            if await self._claim_and_send([batch_id], sender, self._isolated_lease_token, urgent=urgent):
                sender.flush_now()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_duration.total_seconds()):
                        await self._isolated_outcome_written.wait()

    def on_outcomes_written(self, rows: Sequence[AttemptResult]) -> None:
        """Handle outcomes that were written: `deliver_separately` may continue."""
        if any(row.lease_token == self._isolated_lease_token for row in rows):
            self._isolated_outcome_written.set()

    async def release_claims(self) -> int:
        """Release all deliveries that were claimed and not sent. Returns how many. Outcomes must be written before."""
        return await self.release_unstarted_claims() + await self._release(self._tokens_to_release_after_write)

    async def release_unstarted_claims(self) -> int:
        """Release deliveries of claims under which nothing was sent. Returns how many."""
        return await self._release(self._tokens_to_release)

    async def _release(self, tokens: list[str]) -> int:
        count = 0
        if released := list(tokens):
            async with self._store.transaction() as tx:
                count = await self._store.deliveries.release_by_token(tx, released, self._clock.now())
            del tokens[: len(released)]
        return count

    async def _claim_and_send(
        self, batch_ids: Sequence[str], sender: DeliverySender, token: str, *, urgent: bool = False
    ) -> bool:
        """Return whether deliveries were claimed and all of them have an outcome."""
        jobs: Sequence[DeliveryJob] | None = None
        try:
            if urgent:
                with sender.urgent_work():
                    jobs = await self._claim(batch_ids, token)
            else:
                async with self._bulk_lock:
                    jobs = await self._claim(batch_ids, token)
        finally:
            if jobs is None:
                # the claim may have been committed all the same; releasing an unknown token has no effect
                self._tokens_to_release.append(token)
        if not jobs:
            return False
        unsent = jobs
        try:
            unsent = await sender.send(jobs, reload=self._reload)
        finally:
            if unsent:
                self._tokens_to_release_after_write.append(token)
        return not unsent

    async def _claim(self, batch_ids: Sequence[str], token: str) -> Sequence[DeliveryJob]:
        now = self._clock.now()
        async with self._store.transaction() as tx:
            claimed = await self._store.deliveries.claim(
                tx, batch_ids, token=token, now=now, lease_until=now + self._lease_duration
            )
        return await self._build_jobs(claimed, now) if claimed else []

    async def _reload(self, claimed: Sequence[ClaimedDelivery]) -> list[DeliveryJob]:
        """Read claimed deliveries again, with everything that the preflight check needs."""
        now = self._clock.now()
        async with self._store.read_once() as tx:
            current = await self._store.deliveries.reload(tx, claimed)
        return await self._build_jobs(current, now)

    async def _build_jobs(self, claimed: Sequence[ClaimedDelivery], read_at: datetime) -> list[DeliveryJob]:
        notifications = await self._load_notifications({delivery.notification_id for delivery in claimed})
        former_members = await self._find_former_members(claimed, notifications)
        return [
            DeliveryJob(
                delivery=delivery,
                notification=notification,
                category=self._catalog.get_category(notification.category),
                is_in_audience=(delivery.notification_id, delivery.user_id) not in former_members,
                read_at=read_at,
                traits=self._catalog.get_traits(delivery.channel),
                preference_defaults=self._catalog.preference_defaults,
            )
            for delivery in claimed
            # a notification that is not found was deleted after the claim, with its deliveries
            if (notification := notifications.get(delivery.notification_id)) is not None
        ]

    async def _load_notifications(self, ids: Collection[str]) -> Mapping[str, Notification]:
        found = {
            notification_id: cached
            for notification_id in ids
            if (cached := self._notification_cache.get(notification_id)) is not None
        }
        if uncached := [notification_id for notification_id in ids if notification_id not in found]:
            async with self._store.read_once() as tx:
                for notification in await self._store.notifications.get_many(tx, uncached):
                    found[notification.id] = notification
                    self._notification_cache.put(notification)
        return found

    async def _find_former_members(
        self, claimed: Sequence[ClaimedDelivery], notifications: Mapping[str, Notification]
    ) -> Collection[Pair]:
        """Return (notification id, user id) of stale deliveries whose user has left the audience since planning."""
        trusted_since = self._clock.now() - MAX_AUDIENCE_STALENESS
        pairs = {
            (delivery.notification_id, delivery.user_id)
            for delivery in claimed
            if is_stale(delivery, trusted_since)
            and (notification := notifications.get(delivery.notification_id)) is not None
            # the claim has read whether the user still exists
            and not has_explicit_users(notification)
        }
        if not pairs:
            return ()
        async with self._store.read_snapshot() as tx:
            return await find_former_members(self._store, self._catalog, tx, pairs, notifications)
