"""Work that stands still in the database although the queue has got to younger work: it was lost, and is told again.

No queue is asked about single tasks. A lane is first in, first out; so a batch made, or a fan-out seen standing, more
than `LOST_AFTER` before the oldest waiting task of its lane was published is not waiting there any more. What was told
again counts from then on, so that a long backlog is not told over and over.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from tidings.flow.dispatch.tasks import fan_out_task, told_again
from tidings.model.notification import Notification
from tidings.model.priority import Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Store

log = structlog.get_logger(__name__)

#: how much younger the work must be that the queue has got to; more than the clocks of two machines differ
LOST_AFTER = timedelta(seconds=40)
_PAGE = 1000
#: pages of open notifications looked at in one go; the next go continues where this one stopped
_PAGES = 20


class Lost:
    """Remembers what stood where, and since when. One per process."""

    def __init__(self, store: Store, queue: Queue, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        #: batch → when it was told again
        self._told: dict[str, datetime] = {}
        #: open notification → where its fan-out stood, and since when
        self._stood: dict[str, tuple[str | None, datetime]] = {}
        #: the open notification that the last go ended with, None = it came to the end
        self._looked_to: str | None = None

    async def tell_again(self, oldest: Mapping[Lane, datetime | None]) -> int:
        """Publish what was lost. oldest: per lane, when its oldest waiting task was published. Returns how many."""
        now = self._clock.now()
        before = {lane: (waiting or now) - LOST_AFTER for lane, waiting in oldest.items()}
        batches = await self._tell_batches(before, now)
        fan_outs = await self._tell_fan_outs(before, now)
        if batches or fan_outs:
            log.warning("lost_work_told_again", batches=batches, fan_outs=fan_outs)
        return batches + fan_outs

    async def _tell_batches(self, before: Mapping[Lane, datetime], now: datetime) -> int:
        seen: set[str] = set()
        count = 0
        for lane, made_before in before.items():
            after = None
            while True:
                async with self._store.read() as tx:
                    page = await self._store.deliveries.waiting_batches(
                        tx, after=after, limit=_PAGE, lane=lane, before=made_before
                    )
                seen.update(task.ref for task in page)
                lost = [task for task in page if self._told.get(task.ref, made_before) <= made_before]
                await self._publish(lost, now)
                self._told.update((task.ref, now) for task in lost)
                count += len(lost)
                if len(page) < _PAGE:
                    break
                after = page[-1].ref
        self._told = {batch_id: told for batch_id, told in self._told.items() if batch_id in seen}
        return count

    async def _tell_fan_outs(self, before: Mapping[Lane, datetime], now: datetime) -> int:
        stood: dict[str, tuple[str | None, datetime]] = {}
        begun_after = self._looked_to
        count = 0
        for _ in range(_PAGES):
            async with self._store.read() as tx:
                page = await self._store.notifications.unplanned(tx, after=self._looked_to, limit=_PAGE)
            # those that wait for their time still have their row in the outbox
            open_ones = [one for one in page if one.send_at <= now]
            stood.update((one.id, self._standing(one, now)) for one in open_ones)
            lost = [one for one in open_ones if stood[one.id][1] <= before[one.priority]]
            await self._publish([fan_out_task(one, now) for one in lost], now)
            stood.update((one.id, (one.cursor, now)) for one in lost)
            count += len(lost)
            self._looked_to = page[-1].id if len(page) == _PAGE else None
            if self._looked_to is None:
                break
        self._remember(stood, begun_after)
        return count

    def _standing(self, notification: Notification, now: datetime) -> tuple[str | None, datetime]:
        known = self._stood.get(notification.id)
        return known if known is not None and known[0] == notification.cursor else (notification.cursor, now)

    def _remember(self, stood: dict[str, tuple[str | None, datetime]], begun_after: str | None) -> None:
        """Replace what was known of the stretch that was looked at, and keep the rest."""
        end = self._looked_to
        elsewhere = {
            one: since
            for one, since in self._stood.items()
            if (begun_after is not None and one <= begun_after) or (end is not None and one > end)
        }
        self._stood = {**elsewhere, **stood}

    async def _publish(self, tasks: list[Task], now: datetime) -> None:
        if tasks:
            await self._queue.publish(told_again(tasks, now))
