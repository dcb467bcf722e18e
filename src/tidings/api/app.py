"""The HTTP application: middleware from the outside in, one router per resource, the packs' routes."""

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from tidings.api import (
    batch,
    dead_letters,
    describe,
    explain,
    health,
    notifications,
    pages,
    preferences,
    problems,
    process,
    push,
    queries,
    queues,
    templates,
    users,
    users_bulk,
)
from tidings.api.guards import AnswerHeaders, BodyGuard
from tidings.api.health_checks import HealthChecks
from tidings.api.host import ApiHost
from tidings.api.measure import Measure, Metrics
from tidings.api.served import Served
from tidings.insight.shared import SharedMetrics
from tidings.settings import Settings

_ABOUT = (
    "Who must know, what to say, over which channel and when, and what happened to every message.\n\n"
    "Errors are RFC 9457 problem documents with a stable `code`. Lists use cursors. "
    "`Idempotency-Key` makes every POST that creates work safe to repeat."
)


def create_app(runtime: Served, shared: SharedMetrics | None = None) -> FastAPI:
    """Return the application over a running system, which the caller opens and closes.

    shared: where this process counts together with others, None = it is the only one.
    """
    metrics = Metrics(shared)
    app = FastAPI(
        title="Tidings",
        version="0.1.0",
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        middleware=_middleware(runtime.settings, metrics),
        dependencies=[Depends(queries.understood)],
    )
    problems.install(app, hint="GET /openapi.json lists what there is.")
    queries.install(app)
    host = ApiHost(runtime)
    # batch and process before notifications, bulk and me before users: the fixed word first, then the id
    for routes in (
        batch.router(host),
        process.router(host),
        notifications.router(host),
        users_bulk.router(host),
        preferences.router(host),
        users.router(host),
        push.router(host),
        templates.router(host),
        explain.router(host),
        queues.router(host),
        dead_letters.router(host),
    ):
        app.include_router(routes, prefix="/api")
    for pack in runtime.packs:
        if pack.router is not None:
            app.include_router(pack.router(host), prefix="/api")
    app.include_router(health.router(HealthChecks(runtime, metrics)))
    if runtime.settings.demo:
        from tidings.api import demo

        app.include_router(demo.router(host))
    pages.install(app, demo=runtime.settings.demo)
    describe.install(app)
    return app


def _middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    cors = [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=[
                "Location",
                "Idempotency-Replayed",
                "Retry-After",
                "RateLimit-Limit",
                "RateLimit-Remaining",
                "RateLimit-Reset",
            ],
            max_age=600,
        )
    ]
    return [
        Middleware(Measure, metrics),
        Middleware(AnswerHeaders),
        *(cors if settings.cors_origins else []),
        Middleware(problems.CatchUnexpected),
        Middleware(BodyGuard, settings.max_body_bytes),
    ]
