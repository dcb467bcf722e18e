"""The addresses that providers call with events: delivered, bounced, complained, answers of recipients."""

from collections import Counter
from datetime import timedelta

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from tidings.api.context import RouteContext
from tidings.channels.plugin import HookRequest
from tidings.errors import NotFound, Unauthenticated, ValidationFailed
from tidings.flow.record.provider_events import ProviderEventRecorder
from tidings.model.alert import AlertName
from tidings.observability import provider_metrics
from tidings.ports.alerts import AlertSink

log = structlog.get_logger(__name__)

#: calls in a row that cannot be verified, after which an operator is told. Anybody can make a few
MAX_REJECTED = 5
#: how long an alert is kept without a further call
_ALERT_LASTS = timedelta(hours=6)
#: how long a notice of a provider is shown
_NOTICE_LASTS = timedelta(days=3)


def router(context: RouteContext) -> APIRouter:
    """Return the route /hooks/{channel}/{provider}."""
    routes = APIRouter(tags=["hooks"])
    runtime = context.runtime
    recorder = ProviderEventRecorder(
        context.store, context.clock, runtime.alerts, provider_metrics.count_provider_event
    )
    rejections = _Rejections(runtime.alerts)

    @routes.post("/hooks/{channel}/{provider}", openapi_extra=_DESCRIPTION)
    async def receive(channel: str, provider: str, request: Request) -> Response:
        """Receive events from a provider. The call is verified over the bytes that were received.

        The body is what the provider sends. A repeated event is answered in the same way and has no further effect.
        """
        hooks = runtime.hooks.get(channel)
        if hooks is None or provider not in hooks.providers:
            raise NotFound(
                "There is no such hook, or its secret is not set; see docs/howto/provider-events.md.",
                code="unknown_hook",
            )
        hook = HookRequest(
            provider,
            request.url.path,
            request.url.query,
            {name.lower(): value for name, value in request.headers.items()},
            await request.body(),
            context.clock.now(),
        )
        try:
            reading = await hooks.read(hook)
        except Unauthenticated:
            rejections.add(channel, provider)
            raise
        except ValidationFailed as error:
            provider_metrics.HOOK_CALLS.labels(channel, provider, "invalid").inc()
            log.warning("hook_invalid", channel=channel, provider=provider, error=error.message)
            raise
        rejections.reset(channel, provider)
        if reading.notice is not None:
            runtime.alerts.raise_alert(
                AlertName.HOOK_NOTICE, f"{channel}/{provider}", reading.notice, lasts=_NOTICE_LASTS
            )
        if reading.events:
            await recorder.record(reading.events, hooks.feedback.soft_bounces)
            runtime.alerts.resolve_alert(AlertName.PROVIDER_SILENT, channel)
        provider_metrics.HOOK_CALLS.labels(channel, provider, "accepted").inc()
        return Response(reading.body, media_type=reading.media_type)

    return routes


_DESCRIPTION: dict[str, object] = {
    "requestBody": {
        "required": True,
        "content": {
            "*/*": {"schema": {"type": "string", "format": "binary", "description": "what the provider sends"}}
        },
    }
}


class _Rejections:
    """Counts the calls in a row that could not be verified, per hook.

    So a wrong secret is noticed before the provider disables the hook.
    """

    def __init__(self, alerts: AlertSink) -> None:
        self._alerts = alerts
        self._in_a_row: Counter[str] = Counter()

    def add(self, channel: str, provider: str) -> None:
        """Count a call that could not be verified, and tell an operator about several."""
        name = f"{channel}/{provider}"
        provider_metrics.HOOK_CALLS.labels(channel, provider, "rejected").inc()
        self._in_a_row[name] += 1
        if self._in_a_row[name] >= MAX_REJECTED:
            self._alerts.raise_alert(
                AlertName.HOOK_REJECTED,
                name,
                f"{self._in_a_row[name]} calls in a row of POST /hooks/{name} could not be verified; "
                "compare the secret with that of the provider, and the address that the provider calls",
                lasts=_ALERT_LASTS,
            )

    def reset(self, channel: str, provider: str) -> None:
        """Note a call that was verified. Another process may have raised the alert."""
        name = f"{channel}/{provider}"
        self._in_a_row.pop(name, None)
        self._alerts.resolve_alert(AlertName.HOOK_REJECTED, name)
