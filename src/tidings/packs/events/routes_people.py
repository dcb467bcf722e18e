"""HTTP routes of tickets and favourites: who is concerned by an event (API.md)."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.packs.events.bodies import documented
from tidings.packs.events.intake import Person, read
from tidings.packs.events.service import EventService
from tidings.packs.events.wire import MembershipOut
from tidings.ports.host import Host
from tidings.ports.store import Transaction


def people(host: Host, service: EventService) -> APIRouter:
    """Return the routes of tickets and favourites."""
    routes = APIRouter()
    routes.include_router(_tickets(host, service))
    routes.include_router(_favourites(host, service))
    return routes


def _tickets(host: Host, service: EventService) -> APIRouter:
    routes = APIRouter()
    writer = host.require("notify", "admin")

    @routes.post(
        "/events/{event_id}/tickets",
        status_code=201,
        response_model=MembershipOut,
        summary="Give a user a ticket",
        openapi_extra=documented(Person),
    )
    async def give_ticket(event_id: str, request: Request, caller: str = Depends(writer)) -> Response:
        person = read(Person, await request.body())

        async def work(tx: Transaction) -> tuple[int, object]:
            await service.give_ticket(tx, event_id, person.user_id)
            return 201, {"eventId": event_id, "userId": person.user_id, "status": "active"}

        return await host.once(request, caller, work)

    @routes.delete(
        "/events/{event_id}/tickets",
        status_code=204,
        summary="Return a user's ticket",
        description="It stops counting at once, also for notifications that are on their way.",
        openapi_extra=documented(Person),
    )
    async def return_ticket(event_id: str, request: Request, caller: str = Depends(writer)) -> Response:
        person = read(Person, await request.body())

        async def work(tx: Transaction) -> tuple[int, object]:
            await service.return_ticket(tx, event_id, person.user_id)
            return 204, None

        return await host.once(request, caller, work)

    return routes


def _favourites(host: Host, service: EventService) -> APIRouter:
    routes = APIRouter()
    writer = host.require("notify", "admin")

    @routes.post(
        "/events/{event_id}/favourites",
        status_code=201,
        response_model=MembershipOut,
        summary="Note that a user favourites an event",
        openapi_extra=documented(Person),
    )
    async def add_favourite(event_id: str, request: Request, caller: str = Depends(writer)) -> Response:
        person = read(Person, await request.body())

        async def work(tx: Transaction) -> tuple[int, object]:
            await service.add_favourite(tx, event_id, person.user_id)
            return 201, {"eventId": event_id, "userId": person.user_id, "status": "favourite"}

        return await host.once(request, caller, work)

    @routes.delete(
        "/events/{event_id}/favourites",
        status_code=204,
        summary="Forget that a user favourites an event",
        openapi_extra=documented(Person),
    )
    async def remove_favourite(event_id: str, request: Request, caller: str = Depends(writer)) -> Response:
        person = read(Person, await request.body())

        async def work(tx: Transaction) -> tuple[int, object]:
            await service.remove_favourite(tx, event_id, person.user_id)
            return 204, None

        return await host.once(request, caller, work)

    return routes
