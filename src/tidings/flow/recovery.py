"""Find again what a crash or a lost queue left behind. The database is the truth; this walks it.

`redrive` runs at a start, `compare_epochs` every few seconds, `sweep` and `find_lost` several times a minute,
`go_alone` when the shared queue went away, `tidy` now and then. Several workers may do so at once: what they tell the
queue within half a minute is one task, and a task told twice finds nothing to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from tidings.errors import BackendError
from tidings.flow.dispatch.tasks import fan_out_task, told_again
from tidings.flow.lost import Lost
from tidings.model.priority import LANES, Lane
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Released, Store

log = structlog.get_logger(__name__)

_PAGE = 1000
#: answers are kept for repeats of a request this long (API.md)
IDEMPOTENCY_KEPT = timedelta(hours=24)
#: a dead subscription is kept this long, in case the push service was wrong
GONE_KEPT = timedelta(days=1)
#: more than this many dead subscriptions in a day, and none is erased until somebody has looked (mass-deletion breaker)
GONE_LIMIT = 1_000
#: … or this share of all of them, if that is more
GONE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Redriven:
    """What was told to a queue that forgot."""

    notifications: int
    batches: int
    #: claims of this database's last, dead worker
    claims: int = 0


class Recovery:
    """Walks the database for work that no queue knows of."""

    def __init__(self, store: Store, queue: Queue, clock: Clock, *, exclusive: bool = False) -> None:
        """`exclusive`: no other process can be sending from this database."""
        self._store = store
        self._queue = queue
        self._clock = clock
        self._exclusive = exclusive
        self._lost = Lost(store, queue, clock)

    async def redrive(self) -> Redriven | None:
        """At a start: take back what the last run had claimed, and tell a queue that forgot everything that is open.

        Claims are only taken back by an exclusive process; those of another one's worker run out. Returns what was
        found, None if nothing was forgotten.
        """
        claims = 0
        if self._exclusive:
            async with self._store.begin() as tx:
                released = await self._store.deliveries.release_all(tx, self._clock.now())
            _warn_of_quarantined(released)
            claims = released.given_back
        if self._queue.shared:
            found = await self.compare_epochs()
        else:
            # a queue of this process's own is empty
            found = await self._redriven()
        if found is None:
            return Redriven(0, 0, claims) if claims else None
        return Redriven(found.notifications, found.batches, claims)

    async def compare_epochs(self) -> Redriven | None:
        """If the shared queue forgot, tell it everything that is open.

        Returns what was found; None if nothing was forgotten, or nothing can be said while the queue is away.
        """
        if not self._queue.shared:
            return None
        try:
            epoch = await self._queue.epoch()
            async with self._store.read() as tx:
                known = await self._store.epoch(tx)
            if known == epoch:
                return None
            found = await self._redriven()
        except BackendError as error:
            log.warning("epochs_not_compared", problem=error.message)
            return None
        # last, so that a process that dies in the middle leaves it to the next; several at once do no harm
        async with self._store.begin() as tx:
            await self._store.set_epoch(tx, epoch)
        if known is not None:
            log.warning("queue_forgot", notifications=found.notifications, batches=found.batches)
        return found

    async def go_alone(self) -> Redriven:
        """Tell the way out of a shared queue that went away what that one held and nobody can fetch from it.

        Every worker does so for itself; who claims a batch first sends it. Raises BackendError for a database that
        does not answer.
        """
        found = await self._redriven()
        if found.notifications or found.batches:
            log.warning("going_on_alone", notifications=found.notifications, batches=found.batches)
        return found

    async def find_lost(self) -> int:
        """Tell the queue again of what stands still in the database and must have been lost. Returns how many tasks.

        Lanes are first in, first out: what is `LOST_AFTER` older than the oldest that waits is not waiting any more.
        """
        oldest: Mapping[Lane, datetime | None]
        try:
            oldest = {lane: (await self._queue.stats(lane)).oldest for lane in LANES}
            return await self._lost.tell_again(oldest)
        except BackendError as error:
            log.warning("lost_not_looked_for", problem=error.message)
            return 0

    async def sweep(self) -> Released:
        """Give back deliveries whose lease ran out with their worker; what too many workers died with is refused."""
        async with self._store.begin() as tx:
            released = await self._store.deliveries.release_expired(tx, self._clock.now())
        if released.given_back:
            log.warning("leases_expired", deliveries=released.given_back)
        _warn_of_quarantined(released)
        return released

    async def tidy(self) -> None:
        """Erase what has been kept long enough."""
        now = self._clock.now()
        async with self._store.begin() as tx:
            await self._store.idempotency.purge(tx, now - IDEMPOTENCY_KEPT)
            gone, total = await self._store.subscriptions.count_gone(tx, since=now - GONE_KEPT)
            if is_a_wave(gone, total):
                log.error("mass_deletion_stopped", gone_in_a_day=gone, subscriptions=total)
            elif erased := await self._store.subscriptions.purge(tx, now - GONE_KEPT):
                log.info("dead_subscriptions_erased", count=erased)

    async def _redriven(self) -> Redriven:
        return Redriven(await self._redrive_notifications(), await self._redrive_batches())

    async def _redrive_notifications(self) -> int:
        count, after = 0, None
        while True:
            async with self._store.read() as tx:
                page = await self._store.notifications.unplanned(tx, after=after, limit=_PAGE)
            now = self._clock.now()
            # those that wait for their time still have their row in the outbox
            tasks = told_again([fan_out_task(one, now) for one in page if one.send_at <= now], now)
            await self._queue.publish(tasks)
            count += len(tasks)
            if len(page) < _PAGE:
                return count
            after = page[-1].id

    async def _redrive_batches(self) -> int:
        count, after = 0, None
        while True:
            async with self._store.read() as tx:
                tasks = await self._store.deliveries.waiting_batches(tx, after=after, limit=_PAGE)
            await self._queue.publish(told_again(tasks, self._clock.now()))
            count += len(tasks)
            if len(tasks) < _PAGE:
                return count
            after = tasks[-1].ref


def is_a_wave(gone: int, total: int) -> bool:
    """Decide whether so many dead subscriptions in one day look like a fault of a push service."""
    return gone > max(GONE_LIMIT, GONE_SHARE * total)


def _warn_of_quarantined(released: Released) -> None:
    if released.quarantined:
        log.error("quarantined", deliveries=released.quarantined, problem="workers died while sending them")
