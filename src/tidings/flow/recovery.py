"""Find again what a crash or a lost queue left behind. The database is the truth; this walks it.

`redrive` runs at a start with a queue that forgot (its epoch is new), `sweep` runs all the time, `tidy` now and then.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from tidings.flow.dispatch.tasks import fan_out_task
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Store

log = structlog.get_logger(__name__)

_PAGE = 1000
#: a fan-out that stands still for so long is told to the queue again
STALLED_AFTER = timedelta(seconds=60)
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
    """What a restart found."""

    notifications: int
    batches: int
    claims: int


class Recovery:
    """Walks the database for work that no queue knows of."""

    def __init__(self, store: Store, queue: Queue, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        #: open notification → where its fan-out stood, and since when
        self._stood: dict[str, tuple[str | None, datetime]] = {}

    async def redrive(self) -> Redriven | None:
        """If the queue forgot, tell it everything that is open. Returns what was found, None if nothing was forgotten.

        Only for a process that knows no other is sending: it also takes back every claim.
        """
        epoch = await self._queue.epoch()
        async with self._store.begin() as tx:
            if await self._store.epoch(tx) == epoch:
                return None
            claims = await self._store.deliveries.release_all(tx, self._clock.now())
        found = Redriven(await self._redrive_notifications(), await self._redrive_batches(), claims)
        async with self._store.begin() as tx:
            await self._store.set_epoch(tx, epoch)
        return found

    async def _redrive_notifications(self) -> int:
        count, after = 0, None
        while True:
            async with self._store.read() as tx:
                page = await self._store.notifications.unplanned(tx, after=after, limit=_PAGE)
            now = self._clock.now()
            # those that wait for their time still have their row in the outbox
            tasks = [fan_out_task(one, now) for one in page if one.send_at <= now]
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
            await self._queue.publish(tasks)
            count += len(tasks)
            if len(tasks) < _PAGE:
                return count
            after = tasks[-1].ref

    async def sweep(self) -> int:
        """Give back deliveries whose worker let its lease run out. Returns how many."""
        async with self._store.begin() as tx:
            released = await self._store.deliveries.release_expired(tx, self._clock.now())
        if released:
            log.warning("leases_expired", deliveries=released)
        await self._restart_stalled()
        return released

    async def _restart_stalled(self) -> None:
        """Tell the queue again of every fan-out that has not moved for a while."""
        now = self._clock.now()
        async with self._store.read() as tx:
            open_ones = await self._store.notifications.unplanned(tx, after=None, limit=_PAGE)
        seen = {one.id: self._stood.get(one.id, (one.cursor, now)) for one in open_ones if one.send_at <= now}
        for one in open_ones:
            if one.id in seen and seen[one.id][0] != one.cursor:
                seen[one.id] = (one.cursor, now)
        stalled = [one for one in open_ones if one.id in seen and now - seen[one.id][1] >= STALLED_AFTER]
        if stalled:
            log.warning("fan_outs_restarted", notifications=[one.id for one in stalled[:20]], count=len(stalled))
            await self._queue.publish([fan_out_task(one, now) for one in stalled])
        for one in stalled:
            seen[one.id] = (one.cursor, now)
        self._stood = seen

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


def is_a_wave(gone: int, total: int) -> bool:
    """Decide whether so many dead subscriptions in one day look like a fault of a push service."""
    return gone > max(GONE_LIMIT, GONE_SHARE * total)
