"""HTTP routes of events: create, read, change, publish, cancel, and the host's own messages."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Depends, Query
from starlette.responses import JSONResponse, Response

from tidings.packs.events.attendee_routes import create_attendee_router
from tidings.packs.events.event import EventStatus
from tidings.packs.events.responses import (
    EventNotificationResponse,
    EventPage,
    EventResponse,
    EventUpdateResponse,
    serialize_event,
    serialize_notification,
    serialize_update,
)
from tidings.packs.events.schemas import EventPatch, HostMessage, NewEvent, to_event_fields
from tidings.packs.events.service import EventService
from tidings.packs.events.settings import load_settings
from tidings.ports.pack_context import Idempotent, PackContext
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import LOCATION_HEADER, paginate


def create_router(context: PackContext) -> APIRouter:
    """Return the routes of the events pack, to be mounted under `/api`."""
    settings = load_settings()
    service = EventService(
        context.store,
        context.notifier,
        context.clock,
        reminder_before=settings.reminder_before,
        venue_timezone=settings.venue_timezone,
    )
    routes = APIRouter(tags=["events"])
    routes.include_router(_create_read_router(context, service))
    routes.include_router(_create_write_router(context, service))
    routes.include_router(_create_action_router(context, service))
    routes.include_router(create_attendee_router(context, service))
    return routes


def _create_read_router(context: PackContext, service: EventService) -> APIRouter:
    routes = APIRouter(dependencies=[Depends(context.require_scopes("read"))])

    @routes.get("/events", response_model=EventPage, summary="List events, newest first")
    async def list_events(
        status: EventStatus | None = None,
        city: Annotated[str | None, Query(max_length=300)] = None,
        cursor: Annotated[str | None, Query(max_length=64, description="`nextCursor` of the previous page")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        async with context.store.read_snapshot() as tx:
            events = await service.page(tx, status=status, city=city, before=cursor, limit=limit + 1)
        items, next_cursor = paginate(events, limit)
        return JSONResponse({"items": [serialize_event(event) for event in items], "nextCursor": next_cursor})

    @routes.get("/events/{event_id}", response_model=EventResponse, summary="Read an event")
    async def read_event(event_id: str) -> Response:
        async with context.store.read_snapshot() as tx:
            return JSONResponse(serialize_event(await service.get(tx, event_id)))

    return routes


def _create_write_router(context: PackContext, service: EventService) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)
    Writer: TypeAlias = Annotated[str, Depends(context.require_scopes("notify", "admin"))]
    Once: TypeAlias = Annotated[Idempotent, Depends(context.idempotent)]

    @routes.post(
        "/events",
        status_code=201,
        response_model=EventResponse,
        responses={201: {"headers": LOCATION_HEADER}},
        summary="Create an event",
        description="The event is a draft unless `status` is given. No notification is sent: publishing a draft "
        "announces it.",
    )
    async def create_event(body: NewEvent, caller: Writer, idempotent: Once) -> Response:
        async with idempotent(caller, location="/api/events") as call:
            return call.respond(201, serialize_event(await service.create(call.tx, to_event_fields(body))))

    @routes.patch(
        "/events/{event_id}",
        response_model=EventUpdateResponse,
        summary="Change an event",
        description="A significant change of an `ACTIVE` event notifies the holders of an active ticket. `status` "
        "`ACTIVE` on a draft publishes it, `CANCELLED` cancels it.",
    )
    async def change_event(
        event_id: str,
        body: EventPatch,
        caller: Writer,
        idempotent: Once,
    ) -> Response:
        async with idempotent(caller) as call:
            return call.respond(200, serialize_update(await service.update(call.tx, event_id, to_event_fields(body))))

    return routes


def _create_action_router(context: PackContext, service: EventService) -> APIRouter:
    routes = APIRouter(route_class=JsonRoute)
    Writer: TypeAlias = Annotated[str, Depends(context.require_scopes("notify", "admin"))]
    Once: TypeAlias = Annotated[Idempotent, Depends(context.idempotent)]

    @routes.post(
        "/events/{event_id}/notify",
        status_code=202,
        response_model=EventNotificationResponse,
        responses={202: {"headers": LOCATION_HEADER}},
        summary="Send a message to the ticket holders",
    )
    async def notify_holders(
        event_id: str,
        body: HostMessage,
        caller: Annotated[str, Depends(context.require_scopes("admin"))],
        idempotent: Once,
    ) -> Response:
        async with idempotent(caller, location="/api/notifications") as call:
            accepted = await service.notify(call.tx, event_id, body.title, body.body)
            return call.respond(202, serialize_notification(accepted))

    @routes.post(
        "/events/{event_id}/publish",
        response_model=EventUpdateResponse,
        summary="Publish a draft",
        description="The first publication announces the event; publishing it again does not.",
    )
    async def publish_event(event_id: str, caller: Writer, idempotent: Once) -> Response:
        async with idempotent(caller) as call:
            return call.respond(200, serialize_update(await service.publish(call.tx, event_id)))

    @routes.post(
        "/events/{event_id}/cancel",
        response_model=EventUpdateResponse,
        summary="Cancel an event",
        description="Notifies the ticket holders of a public event with urgent priority. 409 if it is already "
        "cancelled or over.",
    )
    async def cancel_event(event_id: str, caller: Writer, idempotent: Once) -> Response:
        async with idempotent(caller) as call:
            return call.respond(200, serialize_update(await service.cancel(call.tx, event_id)))

    return routes
