"""Is it alive, is it ready, does it keep up? Public, so that orchestrators need no key; nothing here is secret."""

from datetime import datetime

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from tidings.api.host import ApiHost
from tidings.api.measure import Metrics
from tidings.edge import describe
from tidings.edge.answers import Shown

#: work that is overdue for this long means that nobody works, or too few, in seconds
BEHIND_AFTER = 60.0
#: a worker that has not gone round for so long has stopped or is stuck, in seconds; it goes round twice a second
STOPPED_AFTER = 30.0


class Health(Shown):
    """`ok`, or what is wrong."""

    status: str


class QueueHealth(Health):
    """How far behind the dispatch of accepted work is."""

    #: when the oldest waiting task was or will be due; null = none waits
    next_due_at: datetime | None
    behind_seconds: float


def router(host: ApiHost, metrics: Metrics) -> APIRouter:
    """Return the routes under /health, and /metrics."""
    routes = APIRouter(tags=["health"])
    public = describe.called_by()
    late = {503: {"model": QueueHealth, "description": "work is overdue"}}

    @routes.get("/health/live", openapi_extra=public)
    async def live() -> Health:
        """Say that the process answers."""
        return Health(status="ok")

    @routes.get("/health/ready", openapi_extra=public)
    async def ready() -> Health:
        """Say whether requests can be served: the database answers. 503 if not."""
        await host.store.ping()
        return Health(status="ok")

    @routes.get("/health/queue", openapi_extra=public, responses=late, response_model=QueueHealth)  # type: ignore[arg-type]  # the framework's type is invariant
    async def queue() -> Response:
        """Say how far behind dispatch is. 503 when work is overdue for more than a minute."""
        return _answer(await _queue(host))

    @routes.get("/health/worker", openapi_extra=public, responses=late, response_model=QueueHealth)  # type: ignore[arg-type]  # as above
    async def worker() -> Response:
        """Say whether this process's worker goes round, and whether the work is done. 503 if not."""
        round_at = host.runtime.pipeline.last_round
        if round_at is not None and (host.clock.now() - round_at).total_seconds() > STOPPED_AFTER:
            health = await _queue(host)
            return _answer(health.model_copy(update={"status": "stopped"}))
        return _answer(await _queue(host))

    @routes.get("/metrics", openapi_extra=public, response_class=Response)
    async def prometheus() -> Response:
        """Return the metrics in the Prometheus text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


async def _queue(host: ApiHost) -> QueueHealth:
    async with host.store.read() as tx:
        due = await host.store.outbox.next_due(tx)
    behind = 0.0 if due is None else max(0.0, (host.clock.now() - due).total_seconds())
    return QueueHealth(status="behind" if behind > BEHIND_AFTER else "ok", next_due_at=due, behind_seconds=behind)


def _answer(health: QueueHealth) -> Response:
    return JSONResponse(health.json_object(), 200 if health.status == "ok" else 503)
