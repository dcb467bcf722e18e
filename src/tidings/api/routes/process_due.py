"""Process due work on demand: POST enqueues it, PUT also waits until it is done.

Neither is required, because workers pick up due work within a second and a scheduled task repeats that. The routes
serve callers that trigger sending from their own timer.
"""

import asyncio
from dataclasses import asdict
from typing import Literal

import structlog
from fastapi import APIRouter, Depends

from tidings.api.context import RouteContext
from tidings.container import AppContainer, DueWorkResult
from tidings.errors import BackendError, Conflict
from tidings.model.priority import LANES
from tidings.observability import metrics
from tidings.ports.rate_limits import RateLimit
from tidings.schemas.response_models import ResponseModel

log = structlog.get_logger(__name__)

#: seconds until POST responds, even if enqueueing has not finished
POST_TIMEOUT = 5.0
#: seconds until PUT responds; less than the 30 s request timeout of common proxies and platforms
PUT_TIMEOUT = 25.0
#: seconds between polls of the lanes
POLL_INTERVAL = 0.1
#: per API key; each call scans all due work
POST_RATE = RateLimit(60, 60.0)
PUT_RATE = RateLimit(12, 60.0)
#: the counts of a run that has not finished
NO_COUNTS = DueWorkResult(tasks=0, batches=0, redriven=0)


class DueCounts(ResponseModel):
    """The numbers of enqueued items."""

    #: accepted work, in tasks
    tasks: int = 0
    #: due retries and delayed deliveries, in batches
    batches: int = 0
    #: re-enqueued stuck tasks
    redriven: int = 0


class EnqueuedResponse(DueCounts):
    """The result of enqueueing due work."""

    #: `running`: enqueueing continues in the background, the counts are not known yet; `left_to_workers`: this process
    #: has no worker and no shared queue, or the queue is unavailable; workers pick up due work themselves
    status: Literal["enqueued", "running", "left_to_workers"]


class ProcessedResponse(DueCounts):
    """The result of processing due work within the request."""

    status: Literal["done", "time_out"]
    #: messages accepted by their provider meanwhile; null: other processes send
    sent: int | None
    #: deliveries that reached another final state meanwhile: refused, gone, skipped
    failed: int | None
    #: deliveries that will be retried
    retrying: int | None
    #: unfinished tasks at the end of the request
    left: int


def router(context: RouteContext) -> APIRouter:
    """Return the routes /notifications/process."""
    routes = APIRouter(tags=["notifications"])
    require_notify = context.require_scopes("notify")
    due_work = DueWork(context.runtime)

    @routes.post(
        "/notifications/process",
        status_code=202,
        dependencies=[Depends(context.rate_limited("process-post", POST_RATE, require_notify))],
    )
    async def enqueue(_: str = Depends(require_notify)) -> EnqueuedResponse:
        """Enqueue all due work. Repeating the request is harmless."""
        if not (due_work.has_consumers and await due_work.is_queue_available()):
            return EnqueuedResponse(status="left_to_workers")
        result = await due_work.enqueue(within=POST_TIMEOUT)
        return EnqueuedResponse(status="enqueued" if result else "running", **asdict(result or NO_COUNTS))

    @routes.put(
        "/notifications/process",
        dependencies=[Depends(context.rate_limited("process-put", PUT_RATE, require_notify))],
    )
    async def process(_: str = Depends(require_notify)) -> ProcessedResponse:
        """Process all due work before responding, for at most 25 seconds.

        The counts include all outcomes that this process records meanwhile.
        """
        if not due_work.has_consumers:
            raise Conflict(
                "This process has no worker and no queue shared with workers. Set TIDINGS_REDIS, or call a `tidings "
                "serve` process. Workers pick up due work themselves.",
                code="sends_elsewhere",
            )
        if not await due_work.is_queue_available():
            raise BackendError("The queue does not respond. Workers continue from the database.")
        return await due_work.process(within=PUT_TIMEOUT)

    return routes


class DueWork:
    """Enqueues due work in background tasks, which continue after a request times out."""

    def __init__(self, runtime: AppContainer) -> None:
        self._runtime = runtime
        #: the event loop holds only weak references to tasks
        self._running: set[asyncio.Task[DueWorkResult]] = set()

    @property
    def has_consumers(self) -> bool:
        """Whether some worker consumes this process's queue."""
        return self._runtime.queue.is_shared or self._runtime.pipeline.has_local_consumer

    async def is_queue_available(self) -> bool:
        """Whether tasks can be enqueued. A process with a worker has a local fallback, so always.

        Due deliveries that are marked as enqueued while the queue is unavailable would wait for the reconciler.
        """
        try:
            if not self._runtime.pipeline.has_local_consumer:
                await self._runtime.queue.ping()
        except BackendError:
            return False
        return True

    async def enqueue(self, *, within: float) -> DueWorkResult | None:
        """Enqueue due work. Returns None after `within` seconds; the run continues. Raises BackendError."""
        run = asyncio.create_task(self._runtime.run_due_work(), name="process due work")
        self._running.add(run)
        run.add_done_callback(self._running.discard)
        done, _ = await asyncio.wait([run], timeout=within)
        if done:
            return run.result()
        run.add_done_callback(_log_failure)
        return None

    async def process(self, *, within: float) -> ProcessedResponse:
        """Enqueue due work and wait until the lanes are empty, for at most `within` seconds. Raises BackendError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        before = metrics.count_recorded_outcomes()
        result = await self.enqueue(within=within)
        remaining = await self._count_remaining()
        while (result is None or remaining or metrics.has_unwritten_outcomes()) and loop.time() < deadline:
            await asyncio.sleep(POLL_INTERVAL)
            remaining = await self._count_remaining()
        outcomes = metrics.count_recorded_outcomes() - before
        sends_here = self._runtime.pipeline.has_local_consumer
        return ProcessedResponse(
            status="time_out" if result is None or remaining else "done",
            **asdict(result or NO_COUNTS),
            sent=outcomes.pop("delivered", 0) if sends_here else None,
            retrying=outcomes.pop("deferred", 0) if sends_here else None,
            failed=outcomes.total() if sends_here else None,
            left=remaining,
        )

    async def _count_remaining(self) -> int:
        lanes = [await self._runtime.queue.stats(lane) for lane in LANES]
        return sum(lane.waiting + lane.active for lane in lanes)


def _log_failure(run: asyncio.Task[DueWorkResult]) -> None:
    """Log the failure of a run whose request has timed out."""
    if not run.cancelled() and (error := run.exception()) is not None:
        log.warning("process_failed", error=str(error))
