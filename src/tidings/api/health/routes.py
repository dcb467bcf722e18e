"""The health routes of the API. They need no API key, so that orchestrators can call them, and contain no secrets."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tidings.api.health.checks import Health, HealthChecks, QueueHealth, Readiness, WorkerHealth


def router(checks: HealthChecks) -> APIRouter:
    """Return the routes under /health, and /metrics."""
    routes = APIRouter(tags=["health"])
    routes.add_api_route("/health/live", checks.check_liveness, response_model=Health)
    routes.add_api_route("/health/ready", checks.check_readiness, **_response_options(Readiness))
    routes.add_api_route("/health/queue", checks.check_queue, **_response_options(QueueHealth))
    routes.add_api_route("/health/worker", checks.check_workers, **_response_options(WorkerHealth))
    routes.add_api_route("/metrics", checks.render_metrics, response_class=Response)
    return routes


def _response_options(model: type[Health]) -> dict[str, Any]:
    unhealthy = {"model": model, "description": "the body describes the problem"}
    return {"response_model": model, "responses": {503: unhealthy}}
