"""Queue status per lane. Counts no rows of deliveries."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Depends

from tidings.api.context import RouteContext
from tidings.container import AppContainer
from tidings.model.priority import LANES, Lane
from tidings.observability.system_status import load_queue_status, query_with_timeout
from tidings.ports.queue import LaneStats
from tidings.ports.store import Store
from tidings.schemas.response_models import ResponseModel

#: delayed tasks in the outbox are counted up to this number
MAX_DELAYED_COUNTED = 10_000


class LaneResponse(ResponseModel):
    """One lane, counted in tasks. A task fans out notifications or sends a batch. null: unknown in this process."""

    lane: Lane
    waiting: int | None
    active: int | None
    #: due later, in the queue and in the outbox
    delayed: int | None
    #: failed in the queue; the work is in the database, and refused deliveries are dead letters
    failed: int | None
    #: completed, within the retention of the queue
    completed: int | None
    #: age of the oldest waiting task; null: there is none
    oldest_age_seconds: float | None
    #: completed over the last minute, by all processes
    rate_per_second: float | None


class IntakeResponse(ResponseModel):
    """The intake queue, counted in jobs."""

    waiting: int
    active: int
    #: jobs to be retried, and jobs that their producer delayed
    delayed: int
    #: rejected; the reason is stored with the job
    failed: int
    completed: int
    #: age of the oldest waiting job; null: there is none
    oldest_age_seconds: float | None
    rate_per_second: float


class QueuesResponse(ResponseModel):
    """All lanes, urgent first."""

    #: `away`: the queue is unavailable, and workers continue from the database; `elsewhere`: without Redis the lanes
    #: are in the memory of the workers' processes, and this process has no worker
    status: Literal["ok", "away", "elsewhere"]
    #: whether several processes share the lanes
    shared: bool
    #: why the queue is unavailable
    away: str | None
    #: age of the oldest due task in the outbox
    outbox_age_seconds: float
    #: whether there is more delayed work than was counted
    more_delayed: bool
    lanes: list[LaneResponse]
    #: null: Redis is not configured or unavailable
    intake: IntakeResponse | None


def router(context: RouteContext) -> APIRouter:
    """Return the route /queues."""
    routes = APIRouter(tags=["queues"])

    @routes.get("/queues")
    async def queues(_: str = Depends(context.require_scopes("read"))) -> QueuesResponse:
        """Return the status of each lane.

        While the queue is unavailable, the response is still 200, with `status` and the numbers of the database.
        """
        return await load_queues(context.runtime)

    return routes


async def load_queues(runtime: AppContainer) -> QueuesResponse:
    """Return the status of the lanes. Raises BackendError when the database does not respond."""
    store, queue, clock = runtime.store, runtime.queue, runtime.clock
    status = await load_queue_status(store, queue, clock)
    delayed = await query_with_timeout(_count_delayed(store, clock.now()))
    has_lanes = queue.is_shared or runtime.pipeline.has_local_consumer
    lanes = status.lanes if has_lanes else {}
    intake = status.external_stats
    return QueuesResponse(
        status="away" if status.unavailable_reason is not None else "ok" if has_lanes else "elsewhere",
        shared=queue.is_shared,
        away=status.unavailable_reason,
        outbox_age_seconds=round(status.outbox_age, 3),
        more_delayed=sum(delayed.values()) >= MAX_DELAYED_COUNTED,
        lanes=[_lane_response(lane, lanes.get(lane), delayed.get(lane, 0), status.lag.get(lane)) for lane in LANES],
        intake=None if intake is None else _intake_response(intake, status.external_lag),
    )


async def _count_delayed(store: Store, now: datetime) -> Mapping[Lane, int]:
    async with store.read_snapshot() as tx:
        return await store.outbox.count_delayed(tx, now, limit=MAX_DELAYED_COUNTED)


def _intake_response(stats: LaneStats, lag: float) -> IntakeResponse:
    return IntakeResponse(
        waiting=stats.waiting,
        active=stats.active,
        delayed=stats.delayed,
        failed=stats.failed,
        completed=stats.completed,
        oldest_age_seconds=None if stats.oldest_published_at is None else round(lag, 3),
        rate_per_second=round(stats.rate, 3),
    )


def _lane_response(lane: Lane, stats: LaneStats | None, delayed_in_outbox: int, lag: float | None) -> LaneResponse:
    if stats is None:
        return LaneResponse(
            lane=lane,
            waiting=None,
            active=None,
            delayed=delayed_in_outbox,
            failed=None,
            completed=None,
            oldest_age_seconds=None,
            rate_per_second=None,
        )
    return LaneResponse(
        lane=lane,
        waiting=stats.waiting,
        active=stats.active,
        delayed=stats.delayed + delayed_in_outbox,
        failed=stats.failed,
        completed=stats.completed,
        oldest_age_seconds=None if stats.oldest_published_at is None or lag is None else round(lag, 3),
        rate_per_second=round(stats.rate, 3),
    )
