"""Live rooms: their state and settings, the numbers of viewers, and tickets of WebSockets."""

from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.routing import WebSocketRoute

from tidings.api.context import RouteContext
from tidings.api.routes.stream_socket import StreamSocket
from tidings.credentials import read_user_token
from tidings.errors import NotFound
from tidings.model.stream import CountBy, StreamAccess, StreamEvent, StreamSettings
from tidings.packs.streams import repository
from tidings.packs.streams.tickets import TicketService
from tidings.ports.presence import RoomView
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel

#: per user; a page that joins again after each loss stays far below
_TICKET_RATE = RateLimit(60, 60)
_CHANGE_RATE = RateLimit(60, 60)
STREAM_SOCKET_PATH = "/api/streams/{event_id}/ws"


class StreamSettingsBody(RequestModel):
    """The settings of a live room. A field that is null or omitted uses the next higher setting."""

    grace_seconds: Annotated[float | None, Field(ge=0, le=86_400)] = None
    count_by: Literal["user", "connection"] | None = None
    access: Literal["users", "ticket_holders"] | None = None


class StreamSettingsResponse(ResponseModel):
    """The settings of the live rooms of a host; null = those of the installation."""

    grace_seconds: float | None
    count_by: CountBy | None
    access: StreamAccess | None


class StreamResponse(ResponseModel):
    """A live room."""

    event_id: str
    #: `empty`: never live; `live`; `grace`: without viewers, not ended yet; `ended`
    state: Literal["empty", "live", "grace", "ended"]
    #: number of the latest epoch; 0 = none
    epoch: int
    #: as counted by `countBy`
    viewers: int
    grace_seconds: float
    count_by: CountBy
    #: who may watch: `users` with a token, or `ticket_holders` of the event
    access: StreamAccess
    started_at: datetime | None
    ended_at: datetime | None


class ClientsResponse(ResponseModel):
    """The viewers of a live room."""

    #: as counted by `countBy`
    count: int
    users: int
    connections: int


class TotalClientsResponse(ResponseModel):
    """The viewers of all live rooms."""

    #: connections
    total: int


class TicketResponse(ResponseModel):
    """A ticket for one WebSocket."""

    ticket: str
    expires_at: datetime


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /streams, and POST /tickets."""
    routes = APIRouter(tags=["streams"], route_class=JsonRoute)
    _add_counts(routes, context)
    _add_settings(routes, context)
    _add_tickets(routes, context)
    return routes


def create_socket_route(context: RouteContext) -> WebSocketRoute:
    """Return the route of the WebSocket, with its complete path."""
    settings = context.runtime.settings
    socket = StreamSocket(
        context.runtime.rooms,
        TicketService(context.store, context.clock),
        context.clock,
        user_secret=settings.user_secret,
        origins=(*settings.cors_origins, settings.frontend_url),
        trusted_proxies=[ip_network(entry, strict=False) for entry in settings.trusted_proxies],
    )
    return WebSocketRoute(STREAM_SOCKET_PATH, socket)


def _add_counts(routes: APIRouter, context: RouteContext) -> None:
    rooms = context.runtime.rooms
    key, user = context.authenticator.require_scopes_or_user("read")
    limit = Depends(context.limit_users("read", READ_RATE, user))

    @routes.get("/streams/clients", dependencies=[Depends(context.require_scopes("read"))])
    async def count_all_clients() -> TotalClientsResponse:
        """Count the connections to all live rooms."""
        return TotalClientsResponse(total=await rooms.presence.count_connections())

    @routes.get("/streams/{event_id}/clients", dependencies=[Depends(key), limit])
    async def count_clients(event_id: str, user_id: Annotated[str, Depends(user)]) -> ClientsResponse:
        """Count the viewers of a live room."""
        event, settings = await _find_visible(context, event_id, user_id)
        view = await rooms.presence.get_room(event.id)
        count_by = settings.count_by or rooms.defaults.count_by
        users, connections = (view.users, view.connections) if view is not None else (0, 0)
        return ClientsResponse(count=_count(view, count_by), users=users, connections=connections)


def _add_settings(routes: APIRouter, context: RouteContext) -> None:
    read_key, read_user = context.authenticator.require_scopes_or_user("read")
    write_key, write_user = context.authenticator.require_scopes_or_user("notify")
    require_user = context.require_user()
    read_limit = Depends(context.limit_users("read", READ_RATE, read_user))
    write_limit = Depends(context.limit_users("stream-change", _CHANGE_RATE, write_user))
    own_read_limit = Depends(context.rate_limited("read", READ_RATE, require_user))
    own_write_limit = Depends(context.rate_limited("stream-change", _CHANGE_RATE, require_user))

    @routes.get("/streams/{event_id}", dependencies=[Depends(read_key), read_limit])
    async def get_stream(event_id: str, user_id: Annotated[str, Depends(read_user)]) -> StreamResponse:
        """Get the state and the settings of a live room."""
        event, settings = await _find_visible(context, event_id, user_id)
        return await _build_response(context, event, settings)

    @routes.put("/streams/{event_id}", dependencies=[Depends(write_key), write_limit])
    async def put_stream(
        event_id: str, body: StreamSettingsBody, user_id: Annotated[str, Depends(write_user)]
    ) -> StreamResponse:
        """Replace the settings of a live room; its host may do so with a user token."""
        event, _ = await _find_visible(context, event_id, user_id)
        if user_id and event.host_id != user_id:
            raise _not_found()
        async with context.store.transaction() as tx:
            await repository.save_settings(tx, "event", event.id, _to_settings(body))
        rooms = context.runtime.rooms
        rooms.invalidate_stream(event.id)
        _, settings = await rooms.find_stream(event.id)
        await rooms.update_settings(event.id)
        return await _build_response(context, event, settings)

    @routes.get("/users/me/stream-settings", dependencies=[own_read_limit])
    async def get_host_settings(user_id: Annotated[str, Depends(require_user)]) -> StreamSettingsResponse:
        """Get the settings of the live rooms of the calling user's events."""
        async with context.store.read_snapshot() as tx:
            settings = await repository.load_settings(tx, "", user_id)
        return StreamSettingsResponse.model_validate(settings)

    @routes.put("/users/me/stream-settings", dependencies=[own_write_limit])
    async def put_host_settings(
        body: StreamSettingsBody, user_id: Annotated[str, Depends(require_user)]
    ) -> StreamSettingsResponse:
        """Replace the settings of the live rooms of the calling user's events. Those of an event go first."""
        settings = _to_settings(body)
        async with context.store.transaction() as tx:
            await context.get_user(tx, user_id, lock=True)
            await repository.save_settings(tx, "host", user_id, settings)
        return StreamSettingsResponse.model_validate(settings)


def _add_tickets(routes: APIRouter, context: RouteContext) -> None:
    tickets = TicketService(context.store, context.clock)
    require_user = context.require_user()
    limit = context.rate_limited("tickets", _TICKET_RATE, require_user)

    @routes.post("/tickets", status_code=201, dependencies=[Depends(limit)])
    async def create_ticket(request: Request, user_id: Annotated[str, Depends(require_user)]) -> TicketResponse:
        """Create a ticket for one WebSocket of the calling user, valid once within a minute."""
        credential = request.headers["authorization"].partition(" ")[2].strip()
        token = read_user_token(context.runtime.settings.user_secret, credential, context.clock.now())
        ticket, expires_at = await tickets.create(user_id, token.expires_at)
        return TicketResponse(ticket=ticket, expires_at=expires_at)


async def _find_visible(context: RouteContext, event_id: str, user_id: str) -> tuple[StreamEvent, StreamSettings]:
    """Return an event and the settings of its room. user_id: empty = an API key. Raises NotFound."""
    event, settings = await context.runtime.rooms.find_stream(event_id)
    if event is None or (user_id and not await context.runtime.rooms.can_watch(event, settings, user_id)):
        raise _not_found()
    return event, settings


async def _build_response(context: RouteContext, event: StreamEvent, settings: StreamSettings) -> StreamResponse:
    rooms = context.runtime.rooms
    view = await rooms.presence.get_room(event.id)
    async with context.store.read_once() as tx:
        latest = await repository.find_latest_epoch(tx, event.id)
    count_by = settings.count_by or rooms.defaults.count_by
    state: Literal["empty", "live", "grace", "ended"] = "empty"
    if view is not None and view.is_live:
        state = "live"
    elif latest is not None:
        state = "grace" if latest.ended_at is None else "ended"
    return StreamResponse(
        event_id=event.id,
        state=state,
        epoch=0 if latest is None else latest.epoch,
        viewers=_count(view, count_by),
        grace_seconds=rooms.defaults.grace if settings.grace_seconds is None else settings.grace_seconds,
        count_by=count_by,
        access=settings.access or rooms.defaults.access,
        started_at=None if latest is None else latest.started_at,
        ended_at=None if latest is None else latest.ended_at,
    )


def _count(view: RoomView | None, count_by: CountBy) -> int:
    if view is None:
        return 0
    return view.users if count_by is CountBy.USER else view.connections


def _to_settings(body: StreamSettingsBody) -> StreamSettings:
    return StreamSettings(
        body.grace_seconds,
        None if body.count_by is None else CountBy(body.count_by),
        None if body.access is None else StreamAccess(body.access),
    )


def _not_found() -> NotFound:
    return NotFound("there is no event with this id", code="event_not_found")
