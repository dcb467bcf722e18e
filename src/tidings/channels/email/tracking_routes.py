"""The routes of tracked links and of the image that reports an open."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tidings.channels.email.settings import EmailSettings
from tidings.channels.email.tracking import TRACKING_PATH, MailLink, verify_link
from tidings.channels.email.unsubscribe_page import render_invalid
from tidings.channels.engagement_recorder import EngagementRecorder
from tidings.errors import BackendError
from tidings.model.engagement import MachineReason, MailRequest, find_machine_reason, format_link_number
from tidings.model.receipt import EventCause, ProviderEvent
from tidings.ports.pack_context import PackContext

log = structlog.get_logger(__name__)

#: name under which the events of this server stand beside those of providers
_PROVIDER: Final = "tidings"
#: a transparent image of one pixel
_IMAGE: Final = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
_HEADERS: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}
_NOT_FOUND: Final = 404


def create_router(context: PackContext, settings: Callable[[], EmailSettings]) -> APIRouter:
    """Return the routes. settings: read at each call, because a server without e-mail needs none."""
    routes = APIRouter(tags=["unsubscribe"])
    recorder = EngagementRecorder(context.store, context.clock)

    @routes.api_route(TRACKING_PATH + "{token}", methods=["GET", "HEAD"], include_in_schema=False)
    async def follow(token: str, request: Request) -> Response:
        """Redirect to the destination of a link, or return the image, and record it if its category is tracked."""
        link = verify_link(context.secret_key, token)
        if link is None:
            return HTMLResponse(render_invalid(settings()), _NOT_FOUND, _HEADERS)
        if link.category in (settings().track_clicks if link.url else settings().track_opens):
            try:
                now = context.clock.now()
                await recorder.record(build_event(link, _read_request(link, request, now), now))
            except BackendError as error:
                # the person must reach the destination without the database, too
                log.warning("engagement_not_recorded", delivery_id=link.delivery_id, error=error.message)
        if link.url:
            return RedirectResponse(link.url, 302, _HEADERS)
        return Response(_IMAGE, media_type="image/gif", headers=_HEADERS)

    return routes


def _read_request(link: MailLink, request: Request, now: datetime) -> MailRequest:
    headers = request.headers
    return MailRequest(
        request.method,
        headers.get("user-agent", "")[:500],
        headers.get("sec-purpose", "") or headers.get("purpose", ""),
        now - datetime.fromtimestamp(link.sent_at, UTC),
    )


def build_event(link: MailLink, request: MailRequest, now: datetime) -> ProviderEvent:
    """Return the event of an open or a click.

    A repeat has the id of the first within a period that doubles, so that a delivery has a bounded number of events.
    """
    reason: MachineReason | None = find_machine_reason(request)
    code: str | None
    if link.url:
        cause = EventCause.CLICK if reason is None else EventCause.MACHINE_CLICK
        code = format_link_number(link.number, link.total) if reason is None else reason.value
    else:
        cause = EventCause.OPEN if reason is None else EventCause.MACHINE_OPEN
        code = None if reason is None else reason.value
    period = max(0, int(request.elapsed.total_seconds()) // 60).bit_length()
    return ProviderEvent(
        channel="email",
        provider=_PROVIDER,
        event_id=f"{cause}:{link.delivery_id}:{link.number}:{code}:{period}",
        occurred_at=now,
        cause=cause,
        delivery_id=link.delivery_id,
        code=code,
        user_id=link.user_id,
    )
