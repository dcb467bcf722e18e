"""Is it alive, is it ready, does it keep up? What every process answers, with the API around it or without."""

import shutil
from datetime import datetime
from pathlib import Path

from starlette.responses import JSONResponse, Response

from tidings.api.measure import Metrics
from tidings.api.served import Served
from tidings.api.standing import Standings
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


class HealthChecks:
    """The answers under /health, and /metrics."""

    def __init__(self, served: Served, metrics: Metrics) -> None:
        self._served = served
        self._metrics = metrics
        self._standings = Standings(served)

    async def live(self) -> Response:
        """Say that the process answers. Asks nobody else, so that nobody else can hold it up."""
        return _answer(Health(status="ok"))

    async def ready(self) -> Response:
        """Say whether requests can be served: the database answers, its schema fits. 503 if not.

        Without the queue they can: what is accepted waits in the database (`degraded`, 200).
        """
        health = await _readiness(self._served)
        return _answer(health, well=health.status != "unavailable")

    async def queue(self) -> Response:
        """Say how far behind the work is. 503 when the queue is `away`, or work is overdue for more than a minute.

        While the database does not answer that is not known: `unknown`, 503.
        """
        return _answer(await _queue(self._served))

    async def worker(self) -> Response:
        """Say who sends. A process that sends itself answers for itself, others for all. 503 if nobody does.

        Others know nobody while the database does not answer: `unknown`, 503.
        """
        return _answer(await _workers(self._served))

    async def prometheus(self) -> Response:
        """Return the metrics in the Prometheus text format."""
        text = await self._metrics.text(await self._standings.latest())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _readiness(served: Served) -> Readiness:
    database = schema = queue = disk = "ok"
    try:
        schema = await answered(_schema(served))
    except BackendError as error:
        database, schema = error.message, "unknown"
    try:
        await served.queue.ping()
    except BackendError as error:
        queue = error.message
    path = served.settings.sqlite_path
    if path is not None and (free := _free(path)) < DISK_NEEDED:
        disk = f"{free} bytes are free at {path.parent}, {DISK_NEEDED} are needed"
    served_well = database == schema == disk == "ok"
    status = "unavailable" if not served_well else "ok" if queue == "ok" else "degraded"
    return Readiness(status=status, database=database, migrations=schema, queue=queue, disk=disk)


async def _schema(served: Served) -> str:
    await served.store.ping()
    return await served.schema_fault() or "ok"


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0


async def _queue(served: Served) -> QueueHealth:
    try:
        standing = await queue_standing(served.store, served.queue, served.clock)
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


async def _workers(served: Served) -> WorkerHealth:
    pipeline = served.pipeline
    try:
        known = [process for process in await running(served.store, served.clock) if process.kind in WORKERS]
        problem = None
    except BackendError as error:
        if not pipeline.attended:
            return WorkerHealth(status="unknown", problem=error.message, workers=[])
        # who else is there cannot be said; this process still answers for itself
        known, problem = [], error.message
    shown = [_shown(served, process) for process in known]
    if pipeline.attended:
        round_at = pipeline.last_round
        stopped = round_at is not None and (served.clock.now() - round_at).total_seconds() > STUCK_AFTER
        return WorkerHealth(status="stuck" if stopped else "ok", problem=problem, workers=shown)
    if not shown:
        return WorkerHealth(status="none", problem=None, workers=[])
    return WorkerHealth(status="stuck" if all(one.stuck for one in shown) else "ok", problem=None, workers=shown)


def _shown(served: Served, process: Process) -> WorkerShown:
    return WorkerShown(
        id=process.id,
        kind=process.kind,
        seen_seconds_ago=max(0.0, (served.clock.now() - process.seen_at).total_seconds()),
        stuck=is_stuck(process),
        detail=process.detail,
    )


def _answer(health: Health, *, well: bool | None = None) -> Response:
    fine = health.status == "ok" if well is None else well
    return JSONResponse(health.json_object(), 200 if fine else 503)
