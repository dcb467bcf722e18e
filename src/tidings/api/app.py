"""Creates the HTTP application: middleware, one router per resource, the packs' routers."""

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from tidings.api.accepting.idempotency import Replayed, replay
from tidings.api.context import RouteContext
from tidings.api.health import routes as health
from tidings.api.health.checks import HealthChecks
from tidings.api.http import openapi, problem_details, query_params
from tidings.api.middleware.body_limits_and_headers import BodyLimitMiddleware, SecurityHeadersMiddleware
from tidings.api.middleware.request_metrics import MetricsEndpoint, RequestMetricsMiddleware
from tidings.api.middleware.unused_headers import CookieRemovalMiddleware
from tidings.api.routes import (
    audiences,
    channels,
    contact_point_changes,
    contact_points,
    dead_letters,
    digests,
    domain_events,
    explain,
    hooks,
    inbox,
    notifications,
    notifications_batch,
    preferences,
    process_due,
    providers,
    queues,
    recurring,
    static_pages,
    streams,
    suppressions,
    templates,
    topics,
    user_schedule,
    users,
    users_bulk,
)
from tidings.channels.plugin import HasRoutes
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.observability.multiprocess_metrics import SharedMetrics

_DESCRIPTION = (
    "Notifications for your users: preferences, channels, scheduling, and a record of every delivery.\n\n"
    "Errors are RFC 9457 problem documents with a stable `code`. Lists are paginated with cursors. "
    "`Idempotency-Key` makes every POST that creates work safe to repeat."
)

#: paths with a fixed segment (batch, process, bulk, me) come before those with an id in its place
_ROUTERS = (
    notifications_batch.router,
    process_due.router,
    notifications.router,
    domain_events.router,
    users_bulk.router,
    preferences.router,
    topics.router,
    user_schedule.router,
    contact_points.router,
    contact_point_changes.router,
    users.router,
    inbox.router,
    templates.router,
    explain.router,
    digests.router,
    queues.router,
    dead_letters.router,
    providers.router,
    channels.router,
    streams.router,
    suppressions.router,
    audiences.router,
    recurring.router,
)


def create_app(runtime: AppContainer, shared: SharedMetrics | None = None) -> FastAPI:
    """Return the application. The caller opens and closes `runtime`.

    shared: the metrics files of several processes, None = this is the only process.
    """
    metrics = MetricsEndpoint(shared)
    app = FastAPI(
        title="Tidings",
        version="0.1.0",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        # a body without a Content-Type is JSON; `BodyLimitMiddleware` rejects other types
        strict_content_type=False,
        middleware=_middleware(runtime.settings, metrics),
        dependencies=[Depends(query_params.reject_unknown_params)],
    )
    problem_details.install(app, hint="GET /openapi.json lists all routes.")
    query_params.install(app)
    app.add_exception_handler(Replayed, replay)
    context = RouteContext(runtime)
    for create_router in _ROUTERS:
        app.include_router(create_router(context), prefix="/api")
    # first: thousands of viewers may join within seconds, and other requests skip it at once
    app.router.routes.insert(0, streams.create_socket_route(context))
    for plugin in runtime.plugins.values():
        if isinstance(plugin, HasRoutes):
            app.include_router(plugin.create_router(context))
    for pack in runtime.packs:
        if pack.router is not None:
            app.include_router(pack.router(context), prefix="/api")
    app.include_router(hooks.router(context))
    app.include_router(health.router(HealthChecks(runtime, metrics)))
    if runtime.settings.demo:
        from tidings.api.routes import demo

        app.include_router(demo.router(context))
    static_pages.install(app, demo=runtime.settings.demo)
    openapi.install(app)
    return app


def _middleware(settings: Settings, metrics: MetricsEndpoint) -> list[Middleware]:
    """Return the middleware, outermost first."""
    cors = [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-Match"],
            expose_headers=[
                "ETag",
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
        Middleware(RequestMetricsMiddleware, metrics),
        Middleware(SecurityHeadersMiddleware),
        Middleware(CookieRemovalMiddleware),
        *(cors if settings.cors_origins else []),
        Middleware(problem_details.UnhandledErrorMiddleware),
        Middleware(BodyLimitMiddleware, settings.max_body_bytes),
    ]
