"""HTTP routes of events: create, read, change, publish, cancel, and the host's own messages (API.md)."""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from tidings.edge import bodies
from tidings.edge.answers import LOCATION, located, page_of
from tidings.edge.describe import takes
from tidings.packs.events.events import EventStatus
from tidings.packs.events.intake import EventPatch, HostMessage, NewEvent, fields_of
from tidings.packs.events.routes_people import people
from tidings.packs.events.service import EventService, Updated
from tidings.packs.events.wire import (
    EventOut,
    EventPage,
    NotificationOut,
    UpdatedOut,
    event_json,
    notification_json,
    updated_json,
)
from tidings.ports.host import Host
from tidings.ports.store import Transaction

#: transaction, event id
Step: TypeAlias = Callable[[Transaction, str], Awaitable[Updated]]


def router(host: Host) -> APIRouter:
    """Return the routes of the events pack, to be mounted under `/api`."""
    service = EventService(host.store, host.notifier, host.clock)
    routes = APIRouter(tags=["events"])
    routes.include_router(_reading(host, service))
    routes.include_router(_writing(host, service))
    routes.include_router(_steps(host, service))
    routes.include_router(people(host, service))
    return routes


def _reading(host: Host, service: EventService) -> APIRouter:
    routes = APIRouter(dependencies=[Depends(host.require("read"))])

    @routes.get("/events", response_model=EventPage, summary="List events, newest first")
    async def list_events(
        status: EventStatus | None = None,
        city: Annotated[str | None, Query(max_length=300)] = None,
        cursor: Annotated[str | None, Query(max_length=64, description="`nextCursor` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        async with host.store.read() as tx:
            found = await service.page(tx, status=status, city=city, before=cursor, limit=limit + 1)
        items, following = page_of(found, limit)
        return JSONResponse({"items": [event_json(event) for event in items], "nextCursor": following})

    @routes.get("/events/{event_id}", response_model=EventOut, summary="Read an event")
    async def read_event(event_id: str) -> Response:
        async with host.store.read() as tx:
            return JSONResponse(event_json(await service.get(tx, event_id)))

    return routes


def _writing(host: Host, service: EventService) -> APIRouter:
    routes = APIRouter()
    writer = host.require("notify", "admin")

    @routes.post(
        "/events",
        status_code=201,
        response_model=EventOut,
        responses={201: {"headers": LOCATION}},
        summary="Create an event",
        description="A draft unless `status` says otherwise. Nobody is notified: publishing a draft announces it.",
        openapi_extra=takes(NewEvent, once=True),
    )
    async def create_event(request: Request, caller: str = Depends(writer)) -> Response:
        fields = fields_of(bodies.read(await request.body(), NewEvent))

        async def work(tx: Transaction) -> tuple[int, object]:
            return 201, event_json(await service.create(tx, fields))

        return located(await host.once(request, caller, work), "/api/events")

    @routes.patch(
        "/events/{event_id}",
        response_model=UpdatedOut,
        summary="Change an event",
        description="A significant change of an `ACTIVE` event notifies the holders of an active ticket. `status` "
        "`ACTIVE` on a draft publishes it, `CANCELLED` cancels it.",
        openapi_extra=takes(EventPatch, once=True),
    )
    async def change_event(event_id: str, request: Request, caller: str = Depends(writer)) -> Response:
        fields = fields_of(bodies.read(await request.body(), EventPatch))

        async def work(tx: Transaction) -> tuple[int, object]:
            return 200, updated_json(await service.update(tx, event_id, fields))

        return await host.once(request, caller, work)

    return routes


def _steps(host: Host, service: EventService) -> APIRouter:
    routes = APIRouter()
    admin = host.require("admin")

    for path, step, summary, description in (
        (
            "publish",
            service.publish,
            "Publish a draft",
            "The first publication announces the event; publishing again never does.",
        ),
        (
            "cancel",
            service.cancel,
            "Cancel an event",
            "Tells the ticket holders of a public event urgently. 409 if it is cancelled or over already.",
        ),
    ):
        _add_step(routes, host, path, step, summary=summary, description=description)

    @routes.post(
        "/events/{event_id}/notify",
        status_code=202,
        response_model=NotificationOut,
        responses={202: {"headers": LOCATION}},
        summary="Send the ticket holders a message",
        openapi_extra=takes(HostMessage, once=True),
    )
    async def notify_holders(event_id: str, request: Request, caller: str = Depends(admin)) -> Response:
        message = bodies.read(await request.body(), HostMessage)

        async def work(tx: Transaction) -> tuple[int, object]:
            accepted = await service.notify(tx, event_id, message.title, message.body)
            return 202, notification_json(accepted)

        return located(await host.once(request, caller, work), "/api/notifications")

    return routes


def _add_step(routes: APIRouter, host: Host, path: str, step: Step, *, summary: str, description: str) -> None:
    @routes.post(
        f"/events/{{event_id}}/{path}",
        name=f"{path}_event",
        response_model=UpdatedOut,
        summary=summary,
        description=description,
        openapi_extra=takes(once=True),
    )
    async def take(event_id: str, request: Request, caller: str = Depends(host.require("notify", "admin"))) -> Response:
        async def work(tx: Transaction) -> tuple[int, object]:
            return 200, updated_json(await step(tx, event_id))

        return await host.once(request, caller, work)
