"""Stuck tasks: open work in the database that is much older than the head of its lane, so its task was lost.

The queue is not queried for single tasks. A lane is first in, first out. A batch that was created, or a fan-out whose
cursor has not moved, since more than `STUCK_AFTER` before the oldest waiting task of the lane was published cannot be
waiting any more. The time of re-enqueueing counts from then on, so that a long backlog is not published repeatedly.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from tidings.flow.tasks import fan_out_task, for_republish
from tidings.model.notification import Notification
from tidings.model.priority import Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Store

log = structlog.get_logger(__name__)

#: age difference to the head of the lane from which a task counts as lost; more than the clock skew of two machines
STUCK_AFTER = timedelta(seconds=40)
_PAGE_SIZE = 1000
#: pages of open notifications per scan; the next scan continues where this one stopped
_MAX_PAGES = 20


class StuckTaskDetector:
    """Detects and re-enqueues stuck tasks. One per process."""

    def __init__(self, store: Store, queue: Queue, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        #: batch id → when it was re-enqueued
        self._republished_at: dict[str, datetime] = {}
        #: id of an open notification → its cursor, and since when it is known not to have moved
        self._progress_seen: dict[str, tuple[str | None, datetime]] = {}
        #: id of the last notification of the previous scan, None = that scan was complete
        self._scan_cursor: str | None = None

    async def republish(self, oldest: Mapping[Lane, datetime | None]) -> int:
        """Re-enqueue stuck tasks. Returns how many.

        oldest: per lane, when its oldest waiting task was published; None = no task waits.
        """
        now = self._clock.now()
        stuck_before = {lane: (published_at or now) - STUCK_AFTER for lane, published_at in oldest.items()}
        batches = await self._republish_batches(stuck_before, now)
        fan_outs = await self._republish_fan_outs(stuck_before, now)
        if batches or fan_outs:
            log.warning("stuck_tasks_requeued", batches=batches, fan_outs=fan_outs)
        return batches + fan_outs

    async def _republish_batches(self, stuck_before: Mapping[Lane, datetime], now: datetime) -> int:
        seen: set[str] = set()
        count = 0
        for lane, created_before in stuck_before.items():
            after = None
            while True:
                async with self._store.read_snapshot() as tx:
                    page = await self._store.deliveries.list_pending_batches(
                        tx, after=after, limit=_PAGE_SIZE, lane=lane, created_before=created_before
                    )
                seen.update(task.ref for task in page)
                lost = [task for task in page if self._republished_at.get(task.ref, created_before) <= created_before]
                await self._publish(lost, now)
                self._republished_at.update((task.ref, now) for task in lost)
                count += len(lost)
                if len(page) < _PAGE_SIZE:
                    break
                after = page[-1].ref
        self._republished_at = {batch_id: at for batch_id, at in self._republished_at.items() if batch_id in seen}
        return count

    async def _republish_fan_outs(self, stuck_before: Mapping[Lane, datetime], now: datetime) -> int:
        progress: dict[str, tuple[str | None, datetime]] = {}
        scan_start = self._scan_cursor
        count = 0
        for _ in range(_MAX_PAGES):
            async with self._store.read_snapshot() as tx:
                page = await self._store.notifications.list_open(tx, after=self._scan_cursor, limit=_PAGE_SIZE)
            # scheduled notifications still have their outbox row
            due = [notification for notification in page if notification.send_at <= now]
            progress.update((notification.id, self._observe_progress(notification, now)) for notification in due)
            lost = [
                notification
                for notification in due
                if progress[notification.id][1] <= stuck_before[notification.priority]
            ]
            await self._publish([fan_out_task(notification, now) for notification in lost], now)
            progress.update((notification.id, (notification.cursor, now)) for notification in lost)
            count += len(lost)
            self._scan_cursor = page[-1].id if len(page) == _PAGE_SIZE else None
            if self._scan_cursor is None:
                break
        self._merge_progress(progress, scan_start)
        return count

    def _observe_progress(self, notification: Notification, now: datetime) -> tuple[str | None, datetime]:
        seen = self._progress_seen.get(notification.id)
        return seen if seen is not None and seen[0] == notification.cursor else (notification.cursor, now)

    def _merge_progress(self, progress: dict[str, tuple[str | None, datetime]], scan_start: str | None) -> None:
        """Replace the entries of the scanned range of ids, and keep all others."""
        scan_end = self._scan_cursor
        outside = {
            notification_id: entry
            for notification_id, entry in self._progress_seen.items()
            if (scan_start is not None and notification_id <= scan_start)
            or (scan_end is not None and notification_id > scan_end)
        }
        self._progress_seen = {**outside, **progress}

    async def _publish(self, tasks: list[Task], now: datetime) -> None:
        if tasks:
            await self._queue.publish(for_republish(tasks, now))
