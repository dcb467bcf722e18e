"""What a process answers that only sends: health and metrics. Apart from the API, whose routes it need not load."""

from fastapi import FastAPI
from starlette.middleware import Middleware

from tidings.api import health, problems
from tidings.api.guards import AnswerHeaders
from tidings.api.host import ApiHost
from tidings.api.measure import Measure, Metrics
from tidings.api.served import Served
from tidings.insight.shared import SharedMetrics


def create_health_app(runtime: Served, shared: SharedMetrics | None = None) -> FastAPI:
    """Return what a process without the API answers: its health and the metrics; arguments as `create_app`."""
    metrics = Metrics(shared)
    app = FastAPI(
        title="Tidings worker",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Measure, metrics), Middleware(AnswerHeaders), Middleware(problems.CatchUnexpected)],
    )
    problems.install(app)
    app.include_router(health.router(ApiHost(runtime), metrics))
    return app
