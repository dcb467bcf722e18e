"""Cancellation across processes: once it is confirmed, no worker starts another send of that notification.

The worker of the same process is notified immediately. Each worker reads every second which of its notifications were
cancelled or superseded, and sends nothing whose data is older than `freshness.MAX_STALENESS`. `cancel` therefore waits
until none of the notification's deliveries is claimed. If a worker was killed or lost the database, it waits for
`BARRIER_TIMEOUT`, which is longer than any worker sends without reading the data again.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from tidings.errors import Conflict
from tidings.flow.notifications import get_notification
from tidings.model.notification import NotificationCounts, NotificationState, StopReason
from tidings.ports.store import Store, Transaction

#: called with the id of a notification that was cancelled or superseded, and the reason
OnStopped = Callable[[str, StopReason], None]
#: maximum wait for other processes, in seconds; must be longer than `freshness.MAX_STALENESS`
BARRIER_TIMEOUT = 4.5
#: seconds between polls for claimed deliveries: the first interval, and the longest
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 0.02, 0.25


class CancellationCoordinator:
    """Cancels notifications, and learns what other processes cancelled or superseded. One per process."""

    def __init__(self, store: Store, *, is_exclusive: bool) -> None:
        """is_exclusive: no other process sends from this database."""
        self._store = store
        self._is_exclusive = is_exclusive
        self._listeners: list[OnStopped] = []

    def on_stopped(self, callback: OnStopped) -> None:
        """Register a callback that is called for each notification that was cancelled or superseded."""
        self._listeners.append(callback)

    async def cancel(self, notification_id: str, *, has_local_consumer: bool) -> None:
        """Cancel a notification. Idempotent. has_local_consumer: a worker of this process consumes the queue.

        Raises NotFound, or Conflict if everything has been sent already.
        """

        async def cancel_stored(tx: Transaction) -> None:
            notification = await get_notification(self._store, tx, notification_id)
            may_be_digested = False
            if notification.state is NotificationState.FANNED_OUT:
                may_be_digested = (await self._require_unsent(tx, notification_id)).collecting > 0
            await self._store.notifications.cancel(tx, notification_id)
            if may_be_digested:
                # again under the lock: a digest that closed meanwhile has taken it
                await self._require_unsent(tx, notification_id)
            # the fan-out task, which may be due only in a year, has no work any more
            await self._store.outbox.remove(tx, [notification_id])

        # another process may have been suspended while it claims or plans deliveries of this notification
        await self._store.run_unblocked(cancel_stored)
        self.notify_local({notification_id: StopReason()})
        await self._wait_until_unclaimed([notification_id], has_local_consumer=has_local_consumer)

    async def _require_unsent(self, tx: Transaction, notification_id: str) -> NotificationCounts:
        """Return the counts of a notification. Raises Conflict if everything has been sent already."""
        counts = await self._store.notifications.get_counts(tx, notification_id)
        if not counts.open:
            raise Conflict("everything has been sent already", code="already_sent")
        return counts

    async def stop_everywhere(self, stopped: Mapping[str, StopReason], *, has_local_consumer: bool) -> None:
        """Return once no process starts another send of notifications whose end was committed before."""
        self.notify_local(stopped)
        await self._store.run_unblocked(self._store.subjects.wait_for_claims)
        await self._wait_until_unclaimed(list(stopped), has_local_consumer=has_local_consumer)

    async def refresh(self, notification_ids: Collection[str]) -> None:
        """Read which of the notifications with deliveries in this process were cancelled or superseded."""
        if notification_ids:
            async with self._store.read_once() as tx:
                stopped = await self._store.notifications.find_stopped(tx, list(notification_ids))
            self.notify_local(stopped)

    def notify_local(self, stopped: Mapping[str, StopReason]) -> None:
        """Stop the sends of notifications in this process."""
        for notification_id, reason in stopped.items():
            for callback in self._listeners:
                callback(notification_id, reason)

    async def _wait_until_unclaimed(self, notification_ids: Sequence[str], *, has_local_consumer: bool) -> None:
        """Wait for the workers of other processes to refresh and release the deliveries, normally within a second.

        A worker that does not must not send any more after `BARRIER_TIMEOUT`. Its leases expire, and the next claim
        reads the cancellation. If no other process can send, there is nothing to wait for.
        """
        if has_local_consumer and self._is_exclusive:
            return
        interval = MIN_POLL_INTERVAL
        with suppress(TimeoutError):
            async with asyncio.timeout(BARRIER_TIMEOUT):
                for notification_id in notification_ids:
                    while await self._has_leased(notification_id):  # released by another process
                        await asyncio.sleep(interval)
                        interval = min(2 * interval, MAX_POLL_INTERVAL)

    async def _has_leased(self, notification_id: str) -> bool:
        async with self._store.read_snapshot() as tx:
            return await self._store.deliveries.has_leased(tx, notification_id)
