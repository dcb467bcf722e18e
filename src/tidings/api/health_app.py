"""What a process answers that only sends: health and metrics, without the framework of the API.

A worker need not carry FastAPI, which was 6 MB of it; `.importlinter` sees to that.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidings.api import problems
from tidings.api.guards import AnswerHeaders
from tidings.api.health_checks import HealthChecks
from tidings.api.measure import Measure, Metrics
from tidings.api.served import Served
from tidings.insight.shared import SharedMetrics


def create_health_app(runtime: Served, shared: SharedMetrics | None = None) -> Starlette:
    """Return what a process without the API answers: its health and the metrics; arguments as `create_app`."""
    metrics = Metrics(shared)
    checks = HealthChecks(runtime, metrics)
    app = Starlette(
        routes=[
            _route("/health/live", checks.live),
            _route("/health/ready", checks.ready),
            _route("/health/queue", checks.queue),
            _route("/health/worker", checks.worker),
            _route("/metrics", checks.prometheus),
        ],
        middleware=[Middleware(Measure, metrics), Middleware(AnswerHeaders), Middleware(problems.CatchUnexpected)],
    )
    app.router.redirect_slashes = False
    problems.install(app)
    return app


def _route(path: str, check: Callable[[], Awaitable[Response]]) -> Route:
    async def answer(request: Request) -> Response:
        # the label in the metrics: not every version of Starlette says which route it took
        request.scope["route"] = route
        return await check()

    route = Route(path, answer)
    # as in the API, without the HEAD that comes with GET here
    route.methods = {"GET"}
    return route
