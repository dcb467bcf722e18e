"""How the queue stands, lane by lane (MISSION M20). No row of a delivery is counted."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Depends

from tidings.api.host import ApiHost
from tidings.api.served import Served
from tidings.edge.answers import Shown
from tidings.insight.standing import answered, queue_standing
from tidings.model.priority import LANES, Lane
from tidings.ports.queue import LaneStats
from tidings.ports.store import Store

#: tasks in the outbox that are looked at to tell what waits for its time
LOOKED_AT = 10_000


class LaneShown(Shown):
    """One lane, in tasks: one plans notifications or sends a batch. null: not known here and now."""

    lane: Lane
    waiting: int | None
    active: int | None
    #: due later: in the queue, and accepted work whose time has not come
    delayed: int | None
    #: given up on by the queue; the work is in the database, and what was refused is a dead letter
    failed: int | None
    #: of as long as the queue keeps them
    completed: int | None
    #: how long the oldest waiting task waits; null: none does
    oldest_age_seconds: float | None
    #: done over the last minute, by all processes together
    rate_per_second: float | None


class IntakeShown(Shown):
    """The queue on which other services leave jobs, in jobs."""

    waiting: int
    active: int
    #: to be tried again later, and what its producer delayed
    delayed: int
    #: refused with a reason, which is kept with the job
    failed: int
    completed: int
    #: how long the oldest waiting job waits; null: none does
    oldest_age_seconds: float | None
    rate_per_second: float


class QueuesShown(Shown):
    """All lanes, urgent first."""

    #: `away`: the queue does not answer, and workers go on from the database; `elsewhere`: without Redis the lanes are
    #: in the memory of the processes that send, and this is none of them
    status: Literal["ok", "away", "elsewhere"]
    #: whether several processes see the same lanes
    shared: bool
    #: why the queue cannot be asked
    away: str | None
    #: how long the oldest accepted task that is due waits to be given to the queue
    outbox_age_seconds: float
    #: there is more delayed work than was counted
    more_delayed: bool
    lanes: list[LaneShown]
    #: null: without Redis there is none, and while that is away it is not known
    intake: IntakeShown | None


def router(host: ApiHost) -> APIRouter:
    """Return the route /queues."""
    routes = APIRouter(tags=["queues"])

    @routes.get("/queues")
    async def queues(_: str = Depends(host.require("read"))) -> QueuesShown:
        """Say how each lane stands.

        While the queue is away the answer is still 200, with `status` and what the database knows.
        """
        return await queues_shown(host.runtime)

    return routes


async def queues_shown(runtime: Served) -> QueuesShown:
    """Return how the lanes stand. Raises BackendError when the database does not answer."""
    store, queue, clock = runtime.store, runtime.queue, runtime.clock
    standing = await queue_standing(store, queue, clock)
    later = await answered(_delayed(store, clock.now()))
    seen = queue.shared or runtime.pipeline.attended
    lanes = standing.lanes if seen else {}
    return QueuesShown(
        status="away" if standing.away is not None else "ok" if seen else "elsewhere",
        shared=queue.shared,
        away=standing.away,
        outbox_age_seconds=round(standing.outbox_age, 3),
        more_delayed=sum(later.values()) >= LOOKED_AT,
        lanes=[_shown(lane, lanes.get(lane), later.get(lane, 0), standing.lag.get(lane)) for lane in LANES],
        intake=None if standing.intake is None else _intake_shown(standing.intake, standing.intake_lag),
    )


async def _delayed(store: Store, now: datetime) -> Mapping[Lane, int]:
    async with store.read() as tx:
        return await store.outbox.delayed(tx, now, most=LOOKED_AT)


def _intake_shown(stats: LaneStats, lag: float) -> IntakeShown:
    return IntakeShown(
        waiting=stats.waiting,
        active=stats.active,
        delayed=stats.delayed,
        failed=stats.failed,
        completed=stats.completed,
        oldest_age_seconds=None if stats.oldest is None else round(lag, 3),
        rate_per_second=round(stats.rate, 3),
    )


def _shown(lane: Lane, stats: LaneStats | None, later: int, lag: float | None) -> LaneShown:
    if stats is None:
        return LaneShown(
            lane=lane,
            waiting=None,
            active=None,
            delayed=later,
            failed=None,
            completed=None,
            oldest_age_seconds=None,
            rate_per_second=None,
        )
    return LaneShown(
        lane=lane,
        waiting=stats.waiting,
        active=stats.active,
        delayed=stats.delayed + later,
        failed=stats.failed,
        completed=stats.completed,
        oldest_age_seconds=None if stats.oldest is None or lag is None else round(lag, 3),
        rate_per_second=round(stats.rate, 3),
    )
