"""Request metrics, by route and not by path, so that ids in paths make no new series."""

import time
from collections.abc import MutableMapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: seconds; a send is accepted in single-digit milliseconds, a bulk import takes seconds
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "tidings_http_requests", "Answered requests", ("method", "route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "tidings_http_request_seconds",
            "From first byte in to last byte out",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return the Prometheus text format: this application's series and the process's."""
        return generate_latest(self._registry) + generate_latest(REGISTRY)


class Measure:
    """ASGI middleware that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            route = _route_of(scope)
            method = scope["method"] if len(scope["method"]) <= 7 else "OTHER"  # methods are free text
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)


def _route_of(scope: MutableMapping[str, object]) -> str:
    """Return the template of the route that answered: `/api/notifications/{notification_id}`."""
    route = getattr(scope.get("route"), "path", None)
    if not isinstance(route, str):
        return "none"
    # included routers know their own part of the path only
    prefix = "/api" if str(scope["path"]).startswith("/api/") and not route.startswith("/api") else ""
    return prefix + route
