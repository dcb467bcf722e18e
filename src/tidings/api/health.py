"""Is it alive, is it ready, does it keep up? Public, so that orchestrators need no key; nothing here is secret."""

import shutil
from datetime import datetime
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from tidings.api.host import ApiHost
from tidings.api.measure import Metrics
from tidings.api.standing import Standings
from tidings.edge import describe
from tidings.edge.answers import Shown
from tidings.errors import BackendError
from tidings.insight.standing import STUCK_AFTER, WORKERS, answered, is_stuck, queue_standing, running
from tidings.model.priority import Lane
from tidings.ports.operations import Process

#: work that is overdue for this long means that nobody works, or too few, in seconds
BEHIND_AFTER = 60.0
#: with less than this free, SQLite cannot take the next writes, in bytes
DISK_NEEDED = 16 << 20


class Health(Shown):
    """`ok`, or what is wrong."""

    status: str


class Readiness(Health):
    """Whether requests can be served; `degraded` means that they can, and more slowly."""

    database: str
    #: whether the schema is the one that this program needs
    migrations: str
    queue: str
    disk: str


class LaneHealth(Shown):
    """How one lane stands."""

    lane: Lane
    waiting: int
    active: int
    delayed: int
    failed: int
    oldest_at: datetime | None
    behind_seconds: float
    #: tasks done per second over the last minute
    rate: float


class QueueHealth(Health):
    """How far behind the accepted work is."""

    #: why queue or database cannot be asked; null = they answer
    problem: str | None
    #: when the oldest task that the queue does not have was or will be due; null = there is none
    next_due_at: datetime | None
    #: of the oldest work of all; null = not known
    behind_seconds: float | None
    lanes: list[LaneHealth]


class WorkerShown(Shown):
    """One process that sends, as it last said itself."""

    id: str
    kind: str
    seen_seconds_ago: float
    stuck: bool
    detail: dict[str, object]


class WorkerHealth(Health):
    """Who sends."""

    #: why the database cannot be asked; null = it answers
    problem: str | None
    workers: list[WorkerShown]


def router(host: ApiHost, metrics: Metrics) -> APIRouter:
    """Return the routes under /health, and /metrics."""
    routes = APIRouter(tags=["health"])
    public = describe.called_by()
    standings = Standings(host)

    @routes.get("/health/live", openapi_extra=public)
    async def live() -> Health:
        """Say that the process answers. Asks nobody else, so that nobody else can hold it up."""
        return Health(status="ok")

    @routes.get("/health/ready", openapi_extra=public, responses=_unwell(Readiness), response_model=Readiness)  # type: ignore[arg-type]  # the framework's type is invariant
    async def ready() -> Response:
        """Say whether requests can be served: the database answers, its schema fits. 503 if not.

        Without the queue they can: what is accepted waits in the database (`degraded`, 200).
        """
        health = await _readiness(host)
        return _answer(health, well=health.status != "unavailable")

    @routes.get("/health/queue", openapi_extra=public, responses=_unwell(QueueHealth), response_model=QueueHealth)  # type: ignore[arg-type]  # as above
    async def queue() -> Response:
        """Say how far behind the work is. 503 when the queue is `away`, or work is overdue for more than a minute.

        While the database does not answer that is not known: `unknown`, 503.
        """
        return _answer(await _queue(host))

    @routes.get("/health/worker", openapi_extra=public, responses=_unwell(WorkerHealth), response_model=WorkerHealth)  # type: ignore[arg-type]  # as above
    async def worker() -> Response:
        """Say who sends. A process that sends itself answers for itself, others for all. 503 if nobody does.

        Others know nobody while the database does not answer: `unknown`, 503.
        """
        return _answer(await _workers(host))

    @routes.get("/metrics", openapi_extra=public, response_class=Response)
    async def prometheus() -> Response:
        """Return the metrics in the Prometheus text format."""
        text = await metrics.text(await standings.latest())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


async def _readiness(host: ApiHost) -> Readiness:
    database = schema = queue = disk = "ok"
    try:
        schema = await answered(_schema(host))
    except BackendError as error:
        database, schema = error.message, "unknown"
    try:
        await host.runtime.queue.ping()
    except BackendError as error:
        queue = error.message
    path = host.runtime.settings.sqlite_path
    if path is not None and (free := _free(path)) < DISK_NEEDED:
        disk = f"{free} bytes are free at {path.parent}, {DISK_NEEDED} are needed"
    served = database == schema == disk == "ok"
    status = "unavailable" if not served else "ok" if queue == "ok" else "degraded"
    return Readiness(status=status, database=database, migrations=schema, queue=queue, disk=disk)


async def _schema(host: ApiHost) -> str:
    await host.store.ping()
    return await host.runtime.schema_fault() or "ok"


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0


async def _queue(host: ApiHost) -> QueueHealth:
    try:
        standing = await queue_standing(host.store, host.runtime.queue, host.clock)
    except BackendError as error:
        return QueueHealth(status="unknown", problem=error.message, next_due_at=None, behind_seconds=None, lanes=[])
    return QueueHealth(
        status="away" if standing.away is not None else "behind" if standing.behind > BEHIND_AFTER else "ok",
        problem=standing.away,
        next_due_at=standing.next_due,
        behind_seconds=standing.behind,
        lanes=[
            LaneHealth(
                lane=lane,
                waiting=stats.waiting,
                active=stats.active,
                delayed=stats.delayed,
                failed=stats.failed,
                oldest_at=stats.oldest,
                behind_seconds=standing.lag[lane],
                rate=stats.rate,
            )
            for lane, stats in standing.lanes.items()
        ],
    )


async def _workers(host: ApiHost) -> WorkerHealth:
    pipeline = host.runtime.pipeline
    try:
        known = [process for process in await running(host.store, host.clock) if process.kind in WORKERS]
        problem = None
    except BackendError as error:
        if not pipeline.attended:
            return WorkerHealth(status="unknown", problem=error.message, workers=[])
        # who else is there cannot be said; this process still answers for itself
        known, problem = [], error.message
    shown = [_shown(host, process) for process in known]
    if pipeline.attended:
        round_at = pipeline.last_round
        stopped = round_at is not None and (host.clock.now() - round_at).total_seconds() > STUCK_AFTER
        return WorkerHealth(status="stuck" if stopped else "ok", problem=problem, workers=shown)
    if not shown:
        return WorkerHealth(status="none", problem=None, workers=[])
    return WorkerHealth(status="stuck" if all(one.stuck for one in shown) else "ok", problem=None, workers=shown)


def _shown(host: ApiHost, process: Process) -> WorkerShown:
    return WorkerShown(
        id=process.id,
        kind=process.kind,
        seen_seconds_ago=max(0.0, (host.clock.now() - process.seen_at).total_seconds()),
        stuck=is_stuck(process),
        detail=process.detail,
    )


def _unwell(model: type[Health]) -> dict[int, dict[str, object]]:
    return {503: {"model": model, "description": "the body says what is wrong"}}


def _answer(health: Health, *, well: bool | None = None) -> Response:
    fine = health.status == "ok" if well is None else well
    return JSONResponse(health.json_object(), 200 if fine else 503)
