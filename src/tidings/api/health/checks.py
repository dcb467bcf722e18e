"""Health checks of every process: liveness, readiness, queue lag, workers. Independent of FastAPI."""

import shutil
from datetime import datetime
from pathlib import Path

from starlette.responses import JSONResponse, Response

from tidings.api.health.status_cache import SystemStatusCache
from tidings.api.middleware.request_metrics import MetricsEndpoint
from tidings.container import AppContainer
from tidings.errors import BackendError
from tidings.model.priority import Lane
from tidings.observability.system_status import (
    STUCK_AFTER,
    WORKER_KINDS,
    is_stuck,
    list_live_processes,
    load_queue_status,
    query_with_timeout,
)
from tidings.ports.operations import Process
from tidings.schemas.response_models import ResponseModel

#: seconds of lag from which the workers count as too slow, or missing
BEHIND_AFTER = 60.0
#: bytes; with less free space, SQLite may fail to write
MIN_FREE_DISK_BYTES = 16 << 20


class Health(ResponseModel):
    """The result of a health check: `ok`, or the kind of problem."""

    status: str


class Readiness(Health):
    """Whether the process can serve requests. `degraded`: it can, with higher delivery latency."""

    database: str
    #: whether the schema is at this program's revision
    migrations: str
    queue: str
    disk: str


class LaneHealth(ResponseModel):
    """The state of one lane."""

    lane: Lane
    waiting: int
    active: int
    delayed: int
    failed: int
    oldest_at: datetime | None
    behind_seconds: float
    #: tasks completed per second over the last minute
    rate: float


class QueueHealth(Health):
    """The lag of accepted work, per lane."""

    #: why the queue or the database is unavailable; null = both respond
    problem: str | None
    #: due time of the oldest task that is not in the queue; null = there is none
    next_due_at: datetime | None
    #: largest lag of all lanes; null = unknown
    behind_seconds: float | None
    lanes: list[LaneHealth]


class WorkerResponse(ResponseModel):
    """One process with a worker, as of its last heartbeat."""

    id: str
    kind: str
    seen_seconds_ago: float
    stuck: bool
    detail: dict[str, object]


class AlertResponse(ResponseModel):
    """One operator alert."""

    name: str
    #: what it is about, such as the origin of a push service
    subject: str
    #: the cause and the fix
    detail: str
    since: datetime
    #: when the cause was last observed
    seen_at: datetime


class WorkerHealth(Health):
    """The live workers. `degraded`: they work, and an operator must act, see `alerts`."""

    #: why the database is unavailable; null = it responds
    problem: str | None
    workers: list[WorkerResponse]
    alerts: list[AlertResponse]


class HealthChecks:
    """The endpoints under /health, and /metrics."""

    def __init__(self, runtime: AppContainer, metrics: MetricsEndpoint) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._status_cache = SystemStatusCache(runtime)

    async def check_liveness(self) -> Response:
        """Report that the process responds. Uses no back end, so that none can delay it."""
        return _respond(Health(status="ok"))

    async def check_readiness(self) -> Response:
        """Report whether the process can serve requests: the database responds and its schema is current. 503 if not.

        Without the queue the status is `degraded` (200): accepted work waits in the database.
        """
        health = await _check_readiness(self._runtime)
        return _respond(health, is_healthy=health.status != "unavailable")

    async def check_queue(self) -> Response:
        """Report the lag of accepted work. 503 when the queue is unavailable (`away`), or the lag exceeds a minute.

        While the database does not respond, the status is `unknown` (503).
        """
        return _respond(await _check_queue(self._runtime))

    async def check_workers(self) -> Response:
        """List the live workers. 503 without a working one.

        A process with a worker reports its own status, other processes that of all workers. While the database does
        not respond, the latter report `unknown` (503). Operator alerts of all processes are listed; with one the status
        is `degraded` (200), because a restart would not help.
        """
        health = await _check_workers(self._runtime)
        return _respond(health, is_healthy=health.status in ("ok", "degraded"))

    async def render_metrics(self) -> Response:
        """Return the metrics in the Prometheus text format."""
        text = await self._metrics.render(await self._status_cache.get_latest())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _check_readiness(runtime: AppContainer) -> Readiness:
    database = schema = queue = disk = "ok"
    try:
        schema = await query_with_timeout(_check_schema(runtime))
    except BackendError as error:
        database, schema = error.message, "unknown"
    try:
        await runtime.queue.ping()
    except BackendError as error:
        queue = error.message
    path = runtime.settings.sqlite_path
    if path is not None and (free := _free_bytes(path)) < MIN_FREE_DISK_BYTES:
        disk = f"{free} bytes are free at {path.parent}, {MIN_FREE_DISK_BYTES} are needed"
    is_available = database == schema == disk == "ok"
    status = "unavailable" if not is_available else "ok" if queue == "ok" else "degraded"
    return Readiness(status=status, database=database, migrations=schema, queue=queue, disk=disk)


async def _check_schema(runtime: AppContainer) -> str:
    await runtime.store.ping()
    return await runtime.check_schema() or "ok"


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0


async def _check_queue(runtime: AppContainer) -> QueueHealth:
    try:
        queue_status = await load_queue_status(runtime.store, runtime.queue, runtime.clock)
    except BackendError as error:
        return QueueHealth(status="unknown", problem=error.message, next_due_at=None, behind_seconds=None, lanes=[])
    if queue_status.unavailable_reason is not None:
        status = "away"
    else:
        status = "behind" if queue_status.max_lag > BEHIND_AFTER else "ok"
    return QueueHealth(
        status=status,
        problem=queue_status.unavailable_reason,
        next_due_at=queue_status.next_due_at,
        behind_seconds=queue_status.max_lag,
        lanes=[
            LaneHealth(
                lane=lane,
                waiting=stats.waiting,
                active=stats.active,
                delayed=stats.delayed,
                failed=stats.failed,
                oldest_at=stats.oldest_published_at,
                behind_seconds=queue_status.lag[lane],
                rate=stats.rate,
            )
            for lane, stats in queue_status.lanes.items()
        ],
    )


async def _check_workers(runtime: AppContainer) -> WorkerHealth:
    health = await _check_live_workers(runtime)
    alerts = [
        AlertResponse(
            name=alert.name.value, subject=alert.subject, detail=alert.detail, since=alert.since, seen_at=alert.seen_at
        )
        for alert in runtime.alerts.list_active()
    ]
    status = "degraded" if alerts and health.status == "ok" else health.status
    return health.model_copy(update={"status": status, "alerts": alerts})


async def _check_live_workers(runtime: AppContainer) -> WorkerHealth:
    pipeline = runtime.pipeline
    try:
        processes = await list_live_processes(runtime.store, runtime.clock)
        problem = None
    except BackendError as error:
        if not pipeline.has_local_consumer:
            return WorkerHealth(status="unknown", problem=error.message, workers=[], alerts=[])
        # other workers are unknown; this process still reports its own status
        processes, problem = [], error.message
    workers = [_worker_response(runtime, process) for process in processes if process.kind in WORKER_KINDS]
    if pipeline.has_local_consumer:
        tick_at = pipeline.last_tick_at
        stuck = tick_at is not None and (runtime.clock.now() - tick_at).total_seconds() > STUCK_AFTER
        return WorkerHealth(status="stuck" if stuck else "ok", problem=problem, workers=workers, alerts=[])
    if not workers:
        return WorkerHealth(status="none", problem=None, workers=[], alerts=[])
    return WorkerHealth(
        status="stuck" if all(one.stuck for one in workers) else "ok", problem=None, workers=workers, alerts=[]
    )


def _worker_response(runtime: AppContainer, process: Process) -> WorkerResponse:
    return WorkerResponse(
        id=process.id,
        kind=process.kind,
        seen_seconds_ago=max(0.0, (runtime.clock.now() - process.seen_at).total_seconds()),
        stuck=is_stuck(process),
        detail=process.detail,
    )


def _respond(health: Health, *, is_healthy: bool | None = None) -> Response:
    if is_healthy is None:
        is_healthy = health.status == "ok"
    return JSONResponse(health.json_object(), 200 if is_healthy else 503)
