"""Routes of the demo site (`--demo` only): sign up as a visitor, and act as the organizer of an event."""

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query
from pydantic import Field, JsonValue
from starlette.responses import JSONResponse, RedirectResponse, Response

from tidings.api.accepting.idempotency import IdempotencyContext
from tidings.api.context import RouteContext
from tidings.api.routes.explain import load_explanation
from tidings.api.routes.notifications import get_with_counts
from tidings.api.routes.users import create_user_token
from tidings.api.schemas.explain import ExplanationResponse
from tidings.api.schemas.notifications import ProgressResponse
from tidings.demo.events import EVENT_ID, EVENTS, DemoEvent
from tidings.demo.people import build_email
from tidings.demo.services import read_mailbox_url
from tidings.errors import Conflict, NotFound
from tidings.model.user import User, caller_of
from tidings.packs.events import repository as events
from tidings.packs.events.event import Event, EventStatus
from tidings.packs.events.responses import serialize_change, serialize_event, serialize_notification
from tidings.packs.events.schemas import OptionalShortText, omitted, to_event_fields
from tidings.packs.events.service import EventService, EventUpdate
from tidings.ports.rate_limits import RateLimit
from tidings.ports.store import Transaction
from tidings.schemas.field_types import Instant, Label, LocaleTag, TimeZone
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel

_SIGN_UP_RATE = RateLimit(60, 60)
_CHANGE_RATE = RateLimit(120, 60)
#: a page polls the progress of a notification
_POLL_RATE = RateLimit(600, 60)
_MAX_EVENTS = 20
#: ids of demo users, and of the organizer
_USER_ID = "^((visitor|demo)-[0-9a-f]{4,16}|demo-host)$"


class SignUpBody(RequestModel):
    """A visitor. The name is only shown on the page."""

    name: Label
    locale: LocaleTag = "en"
    timezone: TimeZone = "UTC"


class ChangeBody(RequestModel):
    """The fields of an event that a visitor can change."""

    # default factories instead of defaults, as in `EventPatch`
    title: Label = Field(default_factory=omitted)
    start_date: Instant = Field(default_factory=omitted)
    end_date: Instant | None = Field(default_factory=omitted)
    venue: OptionalShortText = Field(default_factory=omitted)


class SignUpResponse(ResponseModel):
    """A new demo user with a ticket, and a user token for the page."""

    user_id: str
    token: str
    expires_at: str
    event_id: str
    event: dict[str, JsonValue]
    ticket: str


class EventChangeResponse(ResponseModel):
    """The event after a change, with the detected change and its notification."""

    event: dict[str, JsonValue]
    change: dict[str, JsonValue] | None
    notification: dict[str, JsonValue] | None


class EventList(ResponseModel):
    """The demo's events."""

    items: list[dict[str, JsonValue]]


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /demo/api."""
    routes = APIRouter(prefix="/demo/api", tags=["demo"], route_class=JsonRoute)
    service = EventService(context.store, context.notifier, context.clock)
    _add_visitor_routes(routes, context, service)
    _add_organizer_routes(routes, context, service)
    _add_progress_routes(routes, context)
    return routes


def _add_visitor_routes(routes: APIRouter, context: RouteContext, service: EventService) -> None:
    @routes.post(
        "/sign-up",
        status_code=201,
        responses={201: {"model": SignUpResponse}},
        dependencies=[Depends(context.rate_limited("demo-sign-up", _SIGN_UP_RATE))],
    )
    async def sign_up(body: SignUpBody) -> Response:
        """Create a demo user with a ticket for the first event."""
        user_id = f"visitor-{secrets.token_hex(8)}"
        user = User(
            user_id,
            email=build_email(user_id),
            locale=body.locale,
            timezone=body.timezone,
            attributes={"demo": True, "name": body.name},
        )
        async with context.store.transaction() as tx:
            event = await _find_open_event(tx, service)
            await context.store.users.upsert(tx, [user], context.clock.now())
            await service.give_ticket(tx, event.id, user.id)
        token = create_user_token(context, user.id).json_object()
        return JSONResponse(
            {"userId": user.id, **token, "eventId": event.id, "event": serialize_event(event), "ticket": "active"}, 201
        )

    @routes.get("/mailbox", dependencies=[Depends(context.rate_limited("demo-poll", _POLL_RATE))])
    async def open_mailbox(user_id: Annotated[str, Query(alias="userId", pattern=_USER_ID)]) -> RedirectResponse:
        """Redirect to the page with the e-mails that a demo user was sent."""
        mailbox = await asyncio.to_thread(read_mailbox_url, context.runtime.settings)
        return RedirectResponse(f"{mailbox}/?{urlencode({'to': build_email(user_id)})}", 303)

    @routes.get("/events", dependencies=[Depends(context.rate_limited("demo-poll", _POLL_RATE))])
    async def list_events() -> EventList:
        """List the published events. The one with the visitors' tickets comes first."""
        async with context.store.read_snapshot() as tx:
            events_page = await service.page(tx, status=None, city=None, before=None, limit=_MAX_EVENTS)
        order = {event.id: position for position, event in enumerate(EVENTS)}
        published = [event for event in events_page if event.status is not EventStatus.DRAFT]
        published.sort(key=lambda event: order.get(event.id, len(order)))
        return EventList.model_validate({"items": [serialize_event(event) for event in published]})


def _add_organizer_routes(routes: APIRouter, context: RouteContext, service: EventService) -> None:
    require_user = context.authenticator.require_user()
    organizer = APIRouter(
        dependencies=[Depends(context.rate_limited("demo-change", _CHANGE_RATE, require_user))], route_class=JsonRoute
    )
    responses: dict[int | str, dict[str, object]] = {200: {"model": EventChangeResponse}}

    @organizer.post("/events/{event_id}/change", responses=responses)
    async def change(
        event_id: str,
        body: ChangeBody,
        user_id: str = Depends(require_user),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Change start, venue or title, as the organizer would with PATCH /api/events/{id}."""
        fields = to_event_fields(body)
        async with idempotent(caller_of(user_id)) as call:
            old = await service.get(call.tx, event_id)
            start = fields.get("start_date")
            if start is not None and "end_date" not in fields and old.end_date is not None:
                fields["end_date"] = start + (old.end_date - old.start_date)
            return call.respond(200, _change_response(await service.update(call.tx, event_id, fields)))

    @organizer.post("/events/{event_id}/cancel", responses=responses)
    async def cancel(
        event_id: str,
        user_id: str = Depends(require_user),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Cancel the event."""
        async with idempotent(caller_of(user_id)) as call:
            return call.respond(200, _change_response(await service.cancel(call.tx, event_id)))

    @organizer.post("/events/{event_id}/reset", responses=responses)
    async def reset(
        event_id: str,
        user_id: str = Depends(require_user),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Restore the event's initial state. No notification is sent."""
        async with idempotent(caller_of(user_id)) as call:
            current = await service.get(call.tx, event_id, for_update=True)
            initial = next((event for event in EVENTS if event.id == event_id), None)
            if initial is None:
                raise NotFound("Only the demo's own events can be reset.", code="event_not_found")
            restored = _restore_event(context, current, initial)
            if not await events.replace(call.tx, restored, expected_version=current.version):
                raise Conflict("The event was changed concurrently. Retry.", code="event_changed")
            return call.respond(200, _change_response(EventUpdate(restored)))

    routes.include_router(organizer)


def _add_progress_routes(routes: APIRouter, context: RouteContext) -> None:
    require_user = context.authenticator.require_user()

    poll_limit = Depends(context.rate_limited("demo-poll", _POLL_RATE))

    @routes.get("/notifications/{notification_id}", dependencies=[poll_limit])
    async def notification(notification_id: str) -> ProgressResponse:
        """Return a notification's progress. Public, because audience and content are not included."""
        async with context.store.read_snapshot() as tx:
            return ProgressResponse.from_notification(*await get_with_counts(context, tx, notification_id))

    @routes.get("/explain", dependencies=[poll_limit])
    async def explain(
        notification_id: Annotated[str, Query(alias="notificationId", min_length=1, max_length=100)],
        user_id: str = Depends(require_user),
    ) -> ExplanationResponse:
        """Explain why the calling user received a notification, or why not."""
        return await load_explanation(context, user_id, notification_id)


async def _find_open_event(tx: Transaction, service: EventService) -> Event:
    """Return the demo's first event, or another active one if it does not exist. Raises NotFound."""
    event = await events.get(tx, EVENT_ID)
    if event is not None:
        return event
    for event in await service.page(tx, status=EventStatus.ACTIVE, city=None, before=None, limit=1):
        return event
    raise NotFound("There is no active event. Restart the server with --demo.", code="event_not_found")


def _restore_event(context: RouteContext, event: Event, initial: DemoEvent) -> Event:
    """Return the event with its initial fields and a start in the future."""
    now = context.clock.now()
    midnight = event.created_at.replace(hour=0, minute=0, second=0, microsecond=0)
    start = midnight + timedelta(days=initial.days, hours=initial.hour)
    while start <= now:
        start += timedelta(days=initial.days)
    return replace(
        event,
        title=initial.title,
        description=initial.description,
        start_date=start,
        end_date=start + timedelta(hours=initial.duration_hours),
        venue=initial.venue,
        address=initial.address,
        city=initial.city,
        status=EventStatus(initial.status),
        version=event.version + 1,
        updated_at=now,
    )


def _change_response(updated: EventUpdate) -> dict[str, object]:
    return {
        "event": serialize_event(updated.event),
        "change": serialize_change(updated.change),
        "notification": serialize_notification(updated.notification),
    }
