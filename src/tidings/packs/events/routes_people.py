"""HTTP routes of tickets and favourites: who is concerned by an event (API.md)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tidings.edge import bodies
from tidings.edge.describe import takes
from tidings.packs.events.intake import Person
from tidings.packs.events.service import EventService
from tidings.packs.events.wire import MembershipOut
from tidings.ports.host import Host
from tidings.ports.store import Transaction

#: transaction, event id, user id
Step: TypeAlias = Callable[[Transaction, str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Membership:
    """One way in which a user is concerned by an event, and how it begins and ends."""

    path: str
    begin: Step
    end: Step
    #: what `MembershipOut.status` says once it has begun
    status: str
    beginning: str
    ending: str
    ending_more: str | None = None


def people(host: Host, service: EventService) -> APIRouter:
    """Return the routes of tickets and favourites."""
    routes = APIRouter()
    for membership in (
        Membership(
            "tickets",
            service.give_ticket,
            service.return_ticket,
            "active",
            "Give a user a ticket",
            "Return a user's ticket",
            "It stops counting at once, also for notifications that are on their way.",
        ),
        Membership(
            "favourites",
            service.add_favourite,
            service.remove_favourite,
            "favourite",
            "Note that a user favourites an event",
            "Forget that a user favourites an event",
        ),
    ):
        _add(routes, host, membership)
    return routes


def _add(routes: APIRouter, host: Host, kind: Membership) -> None:
    path = f"/events/{{event_id}}/{kind.path}"
    writer = host.require("notify", "admin")

    @routes.post(
        path,
        name=f"{kind.path}_begin",
        status_code=201,
        response_model=MembershipOut,
        summary=kind.beginning,
        openapi_extra=takes(Person, once=True),
    )
    async def begin(event_id: str, request: Request, caller: str = Depends(writer)) -> Response:
        person = bodies.read(await request.body(), Person)

        async def work(tx: Transaction) -> tuple[int, object]:
            await kind.begin(tx, event_id, person.user_id)
            return 201, {"eventId": event_id, "userId": person.user_id, "status": kind.status}

        return await host.once(request, caller, work)

    @routes.delete(
        path,
        name=f"{kind.path}_end",
        status_code=204,
        summary=kind.ending,
        description=kind.ending_more,
        openapi_extra=takes(Person, once=True),
    )
    async def end(event_id: str, request: Request, caller: str = Depends(writer)) -> Response:
        person = bodies.read(await request.body(), Person)

        async def work(tx: Transaction) -> tuple[int, object]:
            await kind.end(tx, event_id, person.user_id)
            return 204, None

        return await host.once(request, caller, work)
