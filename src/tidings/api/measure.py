"""Request metrics, by route and not by path, so that ids in paths make no new series."""

import asyncio
import time
from collections.abc import MutableMapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidings.insight import counters
from tidings.insight.gauges import Standing
from tidings.insight.shared import SharedMetrics

#: seconds; a send is accepted in single-digit milliseconds, a bulk import takes seconds
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one application, and everything that is shown together with them."""

    def __init__(self, shared: SharedMetrics | None = None) -> None:
        """shared: where the processes of this data folder count together; None = this is the only one."""
        self._shared = shared
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "tidings_http_requests", "Answered requests", ("method", "route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "tidings_http_request_seconds",
            "From first byte in to last byte out",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )

    async def text(self, standing: Standing) -> bytes:
        """Return the Prometheus text format: what was counted, by all processes that count together, and a standing."""
        counters.refresh()
        now = CollectorRegistry()
        now.register(standing)
        if self._shared is not None:
            # reads files, and may wait for another process that reads them
            return await asyncio.to_thread(self._shared.text) + generate_latest(now)
        return generate_latest(self._registry) + generate_latest(REGISTRY) + generate_latest(now)


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
            self.metrics.seconds.labels(method, route).observe(time.perf_counter() - started)


def _route_of(scope: MutableMapping[str, object]) -> str:
    """Return the template of the route that answered: `/api/notifications/{notification_id}`."""
    route = getattr(scope.get("route"), "path", None)
    if not isinstance(route, str):
        return "none"
    # included routers know their own part of the path only
    prefix = "/api" if str(scope["path"]).startswith("/api/") and not route.startswith("/api") else ""
    return prefix + route
