"""Keeps the data of claimed deliveries recent while they wait for a slot.

A claim reads everything that the preflight check needs: the user, the preference, the target, and whether the
notification was cancelled or superseded. A delivery may wait long for its slot when a provider is slow. Data older than
`MAX_STALENESS` is therefore read again before a send, for all waiting deliveries of the process at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog
from msgspec import structs

from tidings.errors import BackendError
from tidings.flow.deliver.preflight import DeliveryJob
from tidings.model.delivery import ClaimedDelivery
from tidings.ports.clock import Clock

log = structlog.get_logger(__name__)

#: maximum age of the data of a delivery when its message is sent
MAX_STALENESS = timedelta(seconds=2)
#: deliveries read by one query
_MAX_RELOADED = 1_000
#: reads claimed deliveries again; those deleted in the meantime are left out
Reload = Callable[[Sequence[ClaimedDelivery]], Awaitable[Sequence[DeliveryJob]]]


class JobRefresher:
    """The jobs that wait in this process, with their most recent data. One per worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: dict[str, DeliveryJob] = {}
        self._lock = asyncio.Lock()
        #: whether the current outage of the database was logged
        self._failure_logged = False

    def add(self, jobs: Iterable[DeliveryJob]) -> None:
        """Keep the data of jobs recent from now on."""
        self._jobs.update((job.delivery.id, job) for job in jobs)

    def discard(self, job: DeliveryJob) -> None:
        """Forget a job that was started."""
        self._jobs.pop(job.delivery.id, None)

    async def ensure_fresh(self, job: DeliveryJob, reload: Reload) -> DeliveryJob:
        """Return the job with recent data. Blocks while the database is unavailable.

        If its delivery was deleted, its user was erased: the job then has no locale.
        """
        while not self._is_recent(job := self._jobs.get(job.delivery.id, job), MAX_STALENESS):
            async with self._lock:
                # another send may have read it again while this one waited
                is_read = self._is_recent(self._jobs.get(job.delivery.id, job), MAX_STALENESS)
                if not is_read and await self._reload(job, reload):
                    # without another look at the clock: a slow database must not stop all sends
                    return self._jobs[job.delivery.id]
        return job

    async def _reload(self, wanted: DeliveryJob, reload: Reload) -> bool:
        """Read the jobs with aged data again, `wanted` among them. Returns False if the database does not answer."""
        aged = {wanted.delivery.id: wanted}
        for job in self._jobs.values():
            if len(aged) >= _MAX_RELOADED:
                break
            if not self._is_recent(job, MAX_STALENESS / 2):
                aged[job.delivery.id] = job
        read_at = self._clock.now()
        try:
            found = {job.delivery.id: job for job in await reload([job.delivery for job in aged.values()])}
        except BackendError as error:
            if not self._failure_logged:
                log.warning("deliveries_not_refreshed", count=len(aged), error=error.message)
            self._failure_logged = True
            await asyncio.sleep(min(error.retry_after, 1.0))
            return False
        self._failure_logged = False
        for delivery_id, job in aged.items():
            if delivery_id in self._jobs or delivery_id == wanted.delivery.id:
                self._jobs[delivery_id] = found.get(delivery_id) or _without_user(job, read_at)
        return True

    def _is_recent(self, job: DeliveryJob, age: timedelta) -> bool:
        return abs(self._clock.now() - job.read_at) <= age


def _without_user(job: DeliveryJob, read_at: datetime) -> DeliveryJob:
    delivery = structs.replace(job.delivery, locale=None, timezone=None, target=None)
    return structs.replace(job, delivery=delivery, read_at=read_at)
