"""The reconciler: compares the database with the queue and re-enqueues work that a crash or a queue reset left behind.

`recover_on_start` runs at a start, `detect_queue_reset` every few seconds, `reap_expired_leases` and `requeue_stuck`
several times a minute, `requeue_locally` when the shared queue becomes unavailable, `purge` occasionally. Several
workers may run them at once: a task that they re-enqueue within half a minute is published once, and a duplicate task
finds no work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from tidings.errors import BackendError
from tidings.flow.recover.lost_tasks import StuckTaskDetector
from tidings.flow.tasks import fan_out_task, for_republish
from tidings.model.priority import LANES, Lane
from tidings.model.subscription import SUSPEND_UNSEEN_AFTER, SubscriptionState
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import LeaseRelease, Store

log = structlog.get_logger(__name__)

_PAGE_SIZE = 1000
#: retention of stored responses for repeated requests (docs/reference/api.md)
IDEMPOTENCY_RETENTION = timedelta(hours=24)
#: retention of gone subscriptions, in case the push service was wrong
GONE_RETENTION = timedelta(days=1)
#: retention of subscriptions that are suspended or belong to another key; a browser that returns registers again
UNUSED_RETENTION = timedelta(days=60)
#: if more subscriptions than this became gone within a day, none is deleted until an operator has investigated …
MASS_DELETION_MIN_COUNT = 1_000
#: … or more than this share of all subscriptions, whichever is larger
MASS_DELETION_MIN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class RequeueResult:
    """Counts of re-enqueued work."""

    notifications: int
    batches: int
    #: deliveries released from the leases of the previous run
    claims: int = 0


class Reconciler:
    """Re-enqueues lost work, releases expired leases and deletes old rows. One per process."""

    def __init__(self, store: Store, queue: Queue, clock: Clock, *, is_exclusive: bool = False) -> None:
        """is_exclusive: no other process can send from this database."""
        self._store = store
        self._queue = queue
        self._clock = clock
        self._is_exclusive = is_exclusive
        self._stuck_tasks = StuckTaskDetector(store, queue, clock)

    async def recover_on_start(self) -> RequeueResult | None:
        """Release the claims of the previous run, and re-enqueue all open work after a queue reset.

        Only an exclusive process releases claims; otherwise those of dead workers expire. A process with an in-memory
        queue always re-enqueues. Returns the counts, None if there was nothing to do.
        """
        claims = 0
        await self.advance_retries()
        if self._is_exclusive:
            async with self._store.transaction() as tx:
                released = await self._store.deliveries.release_all_leases(tx, self._clock.now())
            _log_quarantined(released)
            claims = released.released
        if self._queue.is_shared:
            requeued = await self.detect_queue_reset()
        else:
            # an in-memory queue is empty at a start
            requeued = await self._requeue_all()
        if requeued is None:
            return RequeueResult(0, 0, claims) if claims else None
        return RequeueResult(requeued.notifications, requeued.batches, claims)

    async def advance_retries(self) -> None:
        """Make retries due that were recorded by a clock that was ahead."""
        async with self._store.transaction() as tx:
            count = await self._store.deliveries.advance_retries(tx, self._clock.now())
        if count:
            log.warning("future_retries_rescheduled", count=count)

    async def detect_queue_reset(self) -> RequeueResult | None:
        """Compare the epochs of queue and database. If they differ, re-enqueue all open work.

        Returns the counts, None if there was no reset or a back end is unavailable.
        """
        if not self._queue.is_shared:
            return None
        try:
            epoch = await self._queue.instance_id()
            async with self._store.read_snapshot() as tx:
                stored_epoch = await self._store.get_queue_instance_id(tx)
            if stored_epoch == epoch:
                return None
            requeued = await self._requeue_all()
        except BackendError as error:
            # debug only: BackendHealth logs the outage
            log.debug("queue_reset_check_failed", error=error.message)
            return None
        # stored last: if this process dies before, another one repeats the work; concurrent runs are harmless
        async with self._store.transaction() as tx:
            await self._store.set_queue_instance_id(tx, epoch)
        if stored_epoch is not None:
            log.warning("queue_reset_detected", notifications=requeued.notifications, batches=requeued.batches)
        return requeued

    async def requeue_locally(self) -> RequeueResult:
        """Re-enqueue all open work on this process's local lanes while the shared queue is unavailable.

        Every worker does so for itself; the first to claim a batch sends it. Raises BackendError if the database
        fails.
        """
        requeued = await self._requeue_all()
        if requeued.notifications or requeued.batches:
            log.warning("local_fallback_started", notifications=requeued.notifications, batches=requeued.batches)
        return requeued

    async def requeue_stuck(self) -> int:
        """Re-enqueue stuck tasks, see `StuckTaskDetector`. Returns how many."""
        oldest: Mapping[Lane, datetime | None]
        try:
            oldest = {lane: (await self._queue.stats(lane)).oldest_published_at for lane in LANES}
            return await self._stuck_tasks.republish(oldest)
        except BackendError as error:
            log.debug("stuck_task_scan_failed", error=error.message)
            return 0

    async def reap_expired_leases(self) -> LeaseRelease:
        """Release deliveries whose lease has expired, and quarantine those that too many workers died with."""
        async with self._store.transaction() as tx:
            released = await self._store.deliveries.reap_expired_leases(tx, self._clock.now())
        if released.released:
            log.warning("leases_expired", deliveries=released.released)
        _log_quarantined(released)
        return released

    async def purge(self) -> None:
        """Delete idempotency keys and unused subscriptions after their retention, and suspend unseen devices."""
        now = self._clock.now()
        async with self._store.transaction() as tx:
            await self._store.idempotency_keys.purge(tx, now - IDEMPOTENCY_RETENTION)
            gone, total = await self._store.subscriptions.count_gone(tx, since=now - GONE_RETENTION)
            if exceeds_mass_deletion_threshold(gone, total):
                log.error("mass_deletion_stopped", gone_in_a_day=gone, subscriptions=total)
            elif erased := await self._store.subscriptions.purge(tx, now - GONE_RETENTION):
                log.info("dead_subscriptions_erased", count=erased)
            await self._store.subscriptions.purge_unused(tx, before=now - UNUSED_RETENTION)
        await self._suspend_unseen(now)
        await self._remove_stale_events()

    async def _remove_stale_events(self) -> None:
        """Remove what processes of an older version left of awaited events, in small transactions."""
        # read outside of the writing transaction: the search may read the whole table
        while True:
            async with self._store.read_snapshot() as tx:
                keys = await self._store.awaited_events.list_stale(tx, limit=_PAGE_SIZE)
            if not keys:
                return
            async with self._store.transaction() as tx:
                removed = await self._store.awaited_events.remove_stale(tx, keys)
            if removed < len(keys):
                # another transaction changes the others; the next call finds what it leaves
                return

    async def _suspend_unseen(self, now: datetime) -> None:
        """Suspend devices that were neither seen nor reached for long, in small transactions."""
        while True:
            # read outside of the writing transaction: the search may read the whole table
            async with self._store.read_snapshot() as tx:
                ids = await self._store.subscriptions.list_unseen(
                    tx, before=now - SUSPEND_UNSEEN_AFTER, limit=_PAGE_SIZE
                )
            if not ids:
                return
            async with self._store.transaction() as tx:
                suspended = await self._store.subscriptions.set_state(tx, ids, SubscriptionState.SUSPENDED, now)
            log.info("unseen_devices_suspended", count=suspended)

    async def _requeue_all(self) -> RequeueResult:
        return RequeueResult(await self._requeue_notifications(), await self._requeue_batches())

    async def _requeue_notifications(self) -> int:
        count, after = 0, None
        while True:
            async with self._store.read_snapshot() as tx:
                page = await self._store.notifications.list_open(tx, after=after, limit=_PAGE_SIZE)
            now = self._clock.now()
            # scheduled notifications still have their outbox row
            due = [notification for notification in page if notification.send_at <= now]
            tasks = for_republish([fan_out_task(notification, now) for notification in due], now)
            await self._queue.publish(tasks)
            count += len(tasks)
            if len(page) < _PAGE_SIZE:
                return count
            after = page[-1].id

    async def _requeue_batches(self) -> int:
        count, after = 0, None
        while True:
            async with self._store.read_snapshot() as tx:
                tasks = await self._store.deliveries.list_pending_batches(tx, after=after, limit=_PAGE_SIZE)
            await self._queue.publish(for_republish(tasks, self._clock.now()))
            count += len(tasks)
            if len(tasks) < _PAGE_SIZE:
                return count
            after = tasks[-1].ref


def exceeds_mass_deletion_threshold(gone: int, total: int) -> bool:
    """Return whether so many subscriptions became gone within a day that a push service may be at fault."""
    return gone > max(MASS_DELETION_MIN_COUNT, MASS_DELETION_MIN_SHARE * total)


def _log_quarantined(released: LeaseRelease) -> None:
    if released.quarantined:
        log.error("delivery_quarantined", deliveries=released.quarantined, reason="workers died while sending them")
