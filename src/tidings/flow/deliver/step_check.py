"""The last check of a delivery of a later step, immediately before it is sent.

Whoever marks a message as seen expects that no later step is sent after the response. The data of a claimed delivery
may be two seconds old (`freshness`), so this reads the state of its step again. Sends that check at the same time share
a query.
"""

from collections.abc import Sequence

from msgspec import structs

from tidings.flow.deliver.preflight import DeliveryJob
from tidings.micro_batcher import MicroBatcher
from tidings.model.waiting_step import StepEnd, find_step
from tidings.ports.clock import Clock
from tidings.ports.steps import StepKey
from tidings.ports.store import Store


class StepCheck:
    """Reads what cancelled the steps of deliveries. One per worker."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._find_end: MicroBatcher[StepKey, StepEnd | None] = MicroBatcher(self._find_ends, workers=2)

    async def update(self, job: DeliveryJob) -> DeliveryJob:
        """Return a job with what cancelled its step. Only later steps with a condition cost a query.

        Raises BackendError if the database does not respond.
        """
        steps = job.notification.plan.steps
        if not steps or not (position := find_step(steps, job.delivery.channel)) or steps[position].unless is None:
            return job
        end = await self._find_end((job.notification.id, job.delivery.user_id, job.delivery.channel))
        if end is None:
            return job
        return structs.replace(job, delivery=structs.replace(job.delivery, step_ended_by=end.value))

    async def _find_ends(self, keys: Sequence[StepKey]) -> Sequence[StepEnd | None]:
        async with self._store.read_once() as tx:
            found = await self._store.steps.find_ended(tx, keys, self._clock.now())
        return [found.get(key) for key in keys]
