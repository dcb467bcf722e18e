"""The HTTP endpoints of a worker: health and metrics, on plain Starlette.

Workers do not import FastAPI, which saves 6 MB of memory. `.importlinter` enforces this.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidings.api.health.checks import HealthChecks
from tidings.api.http import problem_details
from tidings.api.middleware.body_limits_and_headers import SecurityHeadersMiddleware
from tidings.api.middleware.request_metrics import MetricsEndpoint, RequestMetricsMiddleware
from tidings.container import AppContainer
from tidings.observability.multiprocess_metrics import SharedMetrics


def create_health_app(runtime: AppContainer, shared: SharedMetrics | None = None) -> Starlette:
    """Return the health and metrics application of a process without the API. Arguments as for `create_app`."""
    metrics = MetricsEndpoint(shared)
    checks = HealthChecks(runtime, metrics)
    app = Starlette(
        routes=[
            _route("/health/live", checks.check_liveness),
            _route("/health/ready", checks.check_readiness),
            _route("/health/queue", checks.check_queue),
            _route("/health/worker", checks.check_workers),
            _route("/metrics", checks.render_metrics),
        ],
        middleware=[
            Middleware(RequestMetricsMiddleware, metrics),
            Middleware(SecurityHeadersMiddleware),
            Middleware(problem_details.UnhandledErrorMiddleware),
        ],
    )
    app.router.redirect_slashes = False
    problem_details.install(app)
    return app


def _route(path: str, check: Callable[[], Awaitable[Response]]) -> Route:
    async def endpoint(request: Request) -> Response:
        # the route label of the metrics; not every version of Starlette sets it
        request.scope["route"] = route
        return await check()

    route = Route(path, endpoint)
    # Starlette adds HEAD to GET; the API has GET only
    route.methods = {"GET"}
    return route
