"""Request metrics, labelled by route template, so that ids in paths do not create time series."""

import asyncio
import time
from collections.abc import MutableMapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidings.observability import metrics as counters
from tidings.observability.multiprocess_metrics import SharedMetrics
from tidings.observability.status_collector import SystemStatusCollector

#: seconds; accepting a notification takes single-digit milliseconds, a bulk import takes seconds
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

#: methods with a label of their own (RFC 9110 §9, RFC 5789)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: the method is not allowed: the path matched a route, which did not run
_WITHOUT_ROUTE = frozenset({405})


class MetricsEndpoint:
    """The request metrics of one application, and the text of /metrics."""

    def __init__(self, shared: SharedMetrics | None = None) -> None:
        """shared: the metrics files of the processes of this data folder, None = this is the only process."""
        self._shared = shared
        self._registry = CollectorRegistry()
        self.request_count = Counter(
            "tidings_http_requests", "HTTP requests", ("method", "route", "status"), registry=self._registry
        )
        self.request_seconds = Histogram(
            "tidings_http_request_seconds",
            "Duration of HTTP requests",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        # the series of the scrapes themselves exist before the first one is counted
        self.request_count.labels("GET", "/metrics", "200")
        self.request_seconds.labels("GET", "/metrics")

    async def render(self, status: SystemStatusCollector) -> bytes:
        """Return the Prometheus text format: the counters of all sharing processes, and the system status."""
        counters.collect()
        status_registry = CollectorRegistry()
        status_registry.register(status)
        if self._shared is not None:
            # reads files, and may wait for the lock of another process that reads them
            return await asyncio.to_thread(self._shared.render) + generate_latest(status_registry)
        return generate_latest(self._registry) + generate_latest(REGISTRY) + generate_latest(status_registry)


class RequestMetricsMiddleware:
    """ASGI middleware that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: MetricsEndpoint) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        finally:
            # clients choose methods and paths: what no route answers shares one label
            route = _route_template(scope) if status not in _WITHOUT_ROUTE else "none"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.request_count.labels(method, route, str(status)).inc()
            self.metrics.request_seconds.labels(method, route).observe(time.perf_counter() - started)


def _route_template(scope: MutableMapping[str, object]) -> str:
    """Return the template of the matched route, such as `/api/notifications/{notification_id}`."""
    route = getattr(scope.get("route"), "path", None)
    if not isinstance(route, str):
        return "none"
    # the path of an included router's route lacks the router's prefix
    prefix = "/api" if str(scope["path"]).startswith("/api/") and not route.startswith("/api") else ""
    return prefix + route
