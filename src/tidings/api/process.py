"""Due work on demand (MISSION M22): POST hands it to the queue, PUT also waits until it is done.

Neither is needed: workers find due work by themselves within a second, and the schedule looks again. They are there
for callers that used to drive the sending from a timer of their own.
"""

import asyncio
from typing import Literal

import structlog
from fastapi import APIRouter, Depends

from tidings.api.host import ApiHost
from tidings.api.rates import Rate, limited
from tidings.api.served import Processed
from tidings.edge.answers import Shown
from tidings.errors import BackendError, Conflict
from tidings.insight import counters
from tidings.model.priority import LANES

log = structlog.get_logger(__name__)

#: seconds until POST answers, done or not
AT_ONCE = 5.0
#: seconds until PUT answers: below the half minute that proxies and platforms give a request
IN_REQUEST = 25.0
#: seconds between looks at the lanes
LOOK_EVERY = 0.1
#: calls of one API key, each of which goes through all that is due
POST_RATE = Rate(60, 60.0)
PUT_RATE = Rate(12, 60.0)


class Found(Shown):
    """What was handed to the queue."""

    #: accepted work
    tasks: int = 0
    #: retries and delays that came due, in batches
    batches: int = 0
    #: what the queue had lost
    redriven: int = 0


class EnqueuedShown(Found):
    """What was handed to the queue, for others to do."""

    #: `running`: it takes longer and goes on, the counts are not known yet; `left_to_workers`: this process neither
    #: sends nor shares a queue with those that do, or the queue is away; they find due work by themselves
    status: Literal["enqueued", "running", "left_to_workers"]


class ProcessedShown(Found):
    """What was handed to the queue and done in the request."""

    status: Literal["done", "time_out"]
    #: messages that were taken meanwhile by their provider; null: other processes send
    sent: int | None
    #: deliveries that ended otherwise meanwhile: refused, gone, skipped
    failed: int | None
    #: deliveries that will be tried again later
    retrying: int | None
    #: tasks that were not done when the time was over
    left: int


def router(host: ApiHost) -> APIRouter:
    """Return the routes /notifications/process."""
    routes = APIRouter(tags=["notifications"])
    may = host.require("notify")
    runs = Runs(host)

    @routes.post("/notifications/process", status_code=202, dependencies=[Depends(limited(POST_RATE, host.clock, may))])
    async def enqueue(_: str = Depends(may)) -> EnqueuedShown:
        """Hand everything that is due to the queue. Repeating it is harmless."""
        if not (runs.reaches_workers and await runs.queue_answers()):
            return EnqueuedShown(status="left_to_workers")
        found = await runs.run(within=AT_ONCE)
        return EnqueuedShown(status="running" if found is None else "enqueued", **_figures(found))

    @routes.put("/notifications/process", dependencies=[Depends(limited(PUT_RATE, host.clock, may))])
    async def process(_: str = Depends(may)) -> ProcessedShown:
        """Do everything that is due before answering, for at most 25 seconds.

        What this process records meanwhile is counted, whoever asked for it.
        """
        if not runs.reaches_workers:
            raise Conflict(
                "This process neither sends nor shares a queue with those that do: set TIDINGS_REDIS, or ask a "
                "tidings serve. Its workers find due work by themselves.",
                code="sends_elsewhere",
            )
        if not await runs.queue_answers():
            raise BackendError("The queue does not answer: workers go on from the database.")
        return await runs.to_the_end(within=IN_REQUEST)

    return routes


class Runs:
    """Goes through what is due, and outlives a request that does not want to wait."""

    def __init__(self, host: ApiHost) -> None:
        self._runtime = host.runtime
        self._going: set[asyncio.Task[Processed]] = set()

    @property
    def reaches_workers(self) -> bool:
        """Whether what is handed to the queue here is taken from it by somebody."""
        return self._runtime.queue.shared or self._runtime.pipeline.attended

    async def queue_answers(self) -> bool:
        """Whether there is a queue to hand something to; a process that sends itself has one in any case.

        What was woken and then found no queue would be missed by the workers, until they look for what was lost.
        """
        if self._runtime.pipeline.attended:
            return True
        try:
            await self._runtime.queue.ping()
        except BackendError:
            return False
        return True

    async def run(self, *, within: float) -> Processed | None:
        """Hand over what is due; None when that takes longer, and goes on. Raises BackendError."""
        run = asyncio.create_task(self._runtime.process(), name="process due work")
        self._going.add(run)
        run.add_done_callback(self._going.discard)
        done, _ = await asyncio.wait([run], timeout=within)
        if done:
            return run.result()
        run.add_done_callback(_said)
        return None

    async def to_the_end(self, *, within: float) -> ProcessedShown:
        """Hand over what is due and wait until the lanes are empty. Raises BackendError."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + within
        before = _recorded()
        found = await self.run(within=within)
        left = await self._left()
        while (found is None or left or self._unwritten()) and loop.time() < ends:
            await asyncio.sleep(LOOK_EVERY)
            left = await self._left()
        own = self._runtime.pipeline.attended
        meanwhile = {outcome: count - before.get(outcome, 0) for outcome, count in _recorded().items()}
        retrying = meanwhile.pop("deferred", 0)
        sent = meanwhile.pop("delivered", 0)
        return ProcessedShown(
            status="time_out" if found is None or left else "done",
            **_figures(found),
            sent=sent if own else None,
            failed=sum(meanwhile.values()) if own else None,
            retrying=retrying if own else None,
            left=left,
        )

    async def _left(self) -> int:
        lanes = [await self._runtime.queue.stats(lane) for lane in LANES]
        return sum(lane.waiting + lane.active for lane in lanes)

    def _unwritten(self) -> bool:
        """Whether this process has outcomes that are not in the database, and so not among the counts."""
        counters.refresh()
        return any(sample.value for metric in counters.UNWRITTEN.collect() for sample in metric.samples)


def _figures(found: Processed | None) -> dict[str, int]:
    if found is None:
        return {}
    return {"tasks": found.tasks, "batches": found.batches, "redriven": found.redriven}


def _recorded() -> dict[str, int]:
    """Return how many outcomes of each kind this process has recorded."""
    counts: dict[str, int] = {}
    for metric in counters.ATTEMPTS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                outcome = sample.labels["outcome"]
                counts[outcome] = counts.get(outcome, 0) + int(sample.value)
    return counts


def _said(run: asyncio.Task[Processed]) -> None:
    """Log how a run ended that nobody waited for."""
    if not run.cancelled() and (error := run.exception()) is not None:
        log.warning("process_failed", problem=str(error))
