"""HTTP routes of tickets and favourites."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Depends
from starlette.responses import Response

from tidings.packs.events.responses import MembershipResponse
from tidings.packs.events.schemas import AttendeeRequest
from tidings.packs.events.service import EventService
from tidings.ports.pack_context import Idempotent, PackContext
from tidings.ports.store import Transaction
from tidings.schemas.json_route import JsonRoute

#: transaction, event id, user id
MembershipAction: TypeAlias = Callable[[Transaction, str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class MembershipKind:
    """A relation between users and events (ticket, favourite) with its two operations."""

    path: str
    add: MembershipAction
    remove: MembershipAction
    #: the `MembershipResponse.status` after `add`
    status: str
    add_summary: str
    remove_summary: str
    remove_description: str | None = None


def create_attendee_router(context: PackContext, service: EventService) -> APIRouter:
    """Return the routes of tickets and favourites."""
    routes = APIRouter(route_class=JsonRoute)
    for kind in (
        MembershipKind(
            "tickets",
            service.give_ticket,
            service.return_ticket,
            "active",
            "Give a user a ticket",
            "Return a user's ticket",
            "The user leaves the audience at once, also for notifications that have not been sent yet.",
        ),
        MembershipKind(
            "favourites",
            service.add_favourite,
            service.remove_favourite,
            "favourite",
            "Add an event to a user's favourites",
            "Remove an event from a user's favourites",
        ),
    ):
        _add_membership_routes(routes, context, kind)
    return routes


def _add_membership_routes(routes: APIRouter, context: PackContext, kind: MembershipKind) -> None:
    path = f"/events/{{event_id}}/{kind.path}"
    Writer: TypeAlias = Annotated[str, Depends(context.require_scopes("notify", "admin"))]
    Once: TypeAlias = Annotated[Idempotent, Depends(context.idempotent)]

    @routes.post(
        path, name=f"{kind.path}_begin", status_code=201, response_model=MembershipResponse, summary=kind.add_summary
    )
    async def begin(event_id: str, body: AttendeeRequest, caller: Writer, idempotent: Once) -> Response:
        async with idempotent(caller) as call:
            await kind.add(call.tx, event_id, body.user_id)
            return call.respond(201, {"eventId": event_id, "userId": body.user_id, "status": kind.status})

    @routes.delete(
        path, name=f"{kind.path}_end", status_code=204, summary=kind.remove_summary, description=kind.remove_description
    )
    async def end(event_id: str, body: AttendeeRequest, caller: Writer, idempotent: Once) -> Response:
        async with idempotent(caller) as call:
            await kind.remove(call.tx, event_id, body.user_id)
            return call.respond(204, None)
