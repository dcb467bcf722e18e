"""The health routes of the API. Public, so that orchestrators need no key; nothing here is secret."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tidings.api.health_checks import Health, HealthChecks, QueueHealth, Readiness, WorkerHealth
from tidings.edge import describe


def router(checks: HealthChecks) -> APIRouter:
    """Return the routes under /health, and /metrics."""
    routes = APIRouter(tags=["health"])
    public: dict[str, Any] = {"methods": ["GET"], "openapi_extra": describe.called_by()}
    routes.add_api_route("/health/live", checks.live, response_model=Health, **public)
    routes.add_api_route("/health/ready", checks.ready, **_told(Readiness), **public)
    routes.add_api_route("/health/queue", checks.queue, **_told(QueueHealth), **public)
    routes.add_api_route("/health/worker", checks.worker, **_told(WorkerHealth), **public)
    routes.add_api_route("/metrics", checks.prometheus, response_class=Response, **public)
    return routes


def _told(model: type[Health]) -> dict[str, Any]:
    unwell = {"model": model, "description": "the body says what is wrong"}
    return {"response_model": model, "responses": {503: unwell}}
