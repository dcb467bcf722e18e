"""The demo site's own routes: sign up without a host product, and play the host of an event. Only with `--demo`."""

import secrets
from dataclasses import replace
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from tidings.api.explain import ExplanationShown, explained
from tidings.api.host import ApiHost
from tidings.api.notifications import counted
from tidings.api.rates import Rate, limited
from tidings.api.shapes import Progress
from tidings.api.users import make_token
from tidings.demo.events import EVENT_ID, EVENTS, DemoEvent
from tidings.edge import bodies, describe
from tidings.edge.answers import Shown
from tidings.edge.bodies import Body
from tidings.edge.fields import LocaleTag, TimeZone
from tidings.edge.text import Label
from tidings.errors import Conflict, Invalid, NotFound
from tidings.model.user import User
from tidings.packs.events import store as events
from tidings.packs.events.events import Event, EventStatus
from tidings.packs.events.intake import EventPatch, fields_of
from tidings.packs.events.service import EventService, Updated
from tidings.packs.events.wire import change_json, event_json, notification_json
from tidings.ports.store import Transaction

_SIGN_UP_RATE = Rate(60, 60)
_PLAY_RATE = Rate(120, 60)
#: what a visitor may change of an event
_CHANGEABLE = frozenset({"startDate", "endDate", "venue", "title"})
_SHOWN = 20


class SignUpBody(Body):
    """A visitor. The name is for the page alone."""

    name: Label
    locale: LocaleTag = "en"
    timezone: TimeZone = "UTC"


class SignedUp(Shown):
    """A new demo user with a ticket, and the token that lets the page act for them."""

    user_id: str
    token: str
    expires_at: str
    event_id: str
    event: dict[str, JsonValue]
    ticket: str


class Played(Shown):
    """What came of a change."""

    event: dict[str, JsonValue]
    change: dict[str, JsonValue] | None
    notification: dict[str, JsonValue] | None


class EventList(Shown):
    """The events on show."""

    items: list[dict[str, JsonValue]]


def router(host: ApiHost) -> APIRouter:
    """Return the routes under /demo/api."""
    routes = APIRouter(prefix="/demo/api", tags=["demo"])
    service = EventService(host.store, host.notifier, host.clock)
    _add_visiting(routes, host, service)
    _add_playing(routes, host, service)
    _add_watching(routes, host)
    return routes


def _add_visiting(routes: APIRouter, host: ApiHost, service: EventService) -> None:
    @routes.post(
        "/sign-up",
        status_code=201,
        responses={201: {"model": SignedUp}},
        dependencies=[Depends(limited(_SIGN_UP_RATE, host.clock))],
        openapi_extra=describe.takes(SignUpBody) | {"security": []},
    )
    async def sign_up(request: Request) -> Response:
        """Make a demo user with a ticket for the first event."""
        body = bodies.read(await request.body(), SignUpBody)
        user = User(
            f"visitor-{secrets.token_hex(8)}",
            locale=body.locale,
            timezone=body.timezone,
            attributes={"demo": True, "name": body.name},
        )
        async with host.store.begin() as tx:
            event = await _on_show(tx, service)
            await host.store.users.upsert(tx, [user], host.clock.now())
            await service.give_ticket(tx, event.id, user.id)
        token = make_token(host, user.id).json_object()
        return JSONResponse(
            {"userId": user.id, **token, "eventId": event.id, "event": event_json(event), "ticket": "active"}, 201
        )

    @routes.get("/events", openapi_extra=describe.called_by())
    async def listed() -> EventList:
        """List the events that visitors see, the one they have a ticket for first."""
        async with host.store.read() as tx:
            found = await service.page(tx, status=None, city=None, before=None, limit=_SHOWN)
        order = {event.id: place for place, event in enumerate(EVENTS)}
        shown = [event for event in found if event.status is not EventStatus.DRAFT]
        shown.sort(key=lambda event: order.get(event.id, len(order)))
        return EventList.model_validate({"items": [event_json(event) for event in shown]})


def _add_playing(routes: APIRouter, host: ApiHost, service: EventService) -> None:
    user = host.gate.user()
    play = {
        "responses": {200: {"model": Played}},
        "dependencies": [Depends(limited(_PLAY_RATE, host.clock, user))],
    }
    by_user = describe.called_by("userToken")

    @routes.post("/events/{event_id}/change", openapi_extra=describe.takes(EventPatch, security="userToken"), **play)  # type: ignore[arg-type]  # the framework's options are a mixed bag
    async def change(event_id: str, request: Request, user_id: str = Depends(user)) -> Response:
        """Change start, venue or title, as the host would over PATCH /api/events/{id}."""
        value = bodies.parse(await request.body())
        if isinstance(value, dict):
            for name in sorted(set(value) - _CHANGEABLE):
                raise Invalid.field(name, f"cannot be changed here; what can is: {', '.join(sorted(_CHANGEABLE))}")
        fields = fields_of(bodies.check(value, EventPatch))

        async def work(tx: Transaction) -> tuple[int, object]:
            old = await service.get(tx, event_id)
            start = fields.get("start_date")
            if start is not None and "end_date" not in fields and old.end_date is not None:
                fields["end_date"] = start + (old.end_date - old.start_date)
            return 200, _played(await service.update(tx, event_id, fields))

        return await host.once(request, f"user:{user_id}", work)

    @routes.post("/events/{event_id}/cancel", openapi_extra=by_user, **play)  # type: ignore[arg-type]  # as above
    async def cancel(event_id: str, request: Request, user_id: str = Depends(user)) -> Response:
        """Cancel the event."""

        async def work(tx: Transaction) -> tuple[int, object]:
            return 200, _played(await service.cancel(tx, event_id))

        return await host.once(request, f"user:{user_id}", work)

    @routes.post("/events/{event_id}/reset", openapi_extra=by_user, **play)  # type: ignore[arg-type]  # as above
    async def reset(event_id: str, request: Request, user_id: str = Depends(user)) -> Response:
        """Put the event back as it was at first. Nobody is told."""

        async def work(tx: Transaction) -> tuple[int, object]:
            now_kept = await service.get(tx, event_id, for_update=True)
            first = next((one for one in EVENTS if one.id == event_id), None)
            if first is None:
                raise NotFound("Only the demo's own events can be reset.", code="event_not_found")
            back = _as_first(host, now_kept, first)
            if not await events.replace(tx, back, expected_version=now_kept.version):
                raise Conflict("The event was changed at the same time; try again.", code="event_changed")
            return 200, _played(Updated(back))

        return await host.once(request, f"user:{user_id}", work)


def _add_watching(routes: APIRouter, host: ApiHost) -> None:
    user = host.gate.user()

    @routes.get("/notifications/{notification_id}", openapi_extra=describe.called_by())
    async def notification(notification_id: str) -> Progress:
        """Return how far a notification has come. Public: neither its audience nor its words are in it."""
        async with host.store.read() as tx:
            return Progress.of(*await counted(host, tx, notification_id))

    @routes.get("/explain", openapi_extra=describe.called_by("userToken"))
    async def explain(
        notification_id: Annotated[str, Query(alias="notificationId", min_length=1, max_length=100)],
        user_id: str = Depends(user),
    ) -> ExplanationShown:
        """Say why the calling user got it, or why not."""
        return await explained(host, user_id, notification_id)


async def _on_show(tx: Transaction, service: EventService) -> Event:
    """Return the demo's first event, or whatever is on if that is gone."""
    found = await events.get(tx, EVENT_ID)
    if found is not None:
        return found
    for event in await service.page(tx, status=EventStatus.ACTIVE, city=None, before=None, limit=1):
        return event
    raise NotFound("There is no event to sign up for; start the server with --demo again.", code="event_not_found")


def _as_first(host: ApiHost, event: Event, first: DemoEvent) -> Event:
    """Return the event as it was made, in the future whenever that was."""
    now = host.clock.now()
    midnight = event.created_at.replace(hour=0, minute=0, second=0, microsecond=0)
    start = midnight + timedelta(days=first.days, hours=first.hour)
    while start <= now:
        start += timedelta(days=first.days)
    return replace(
        event,
        title=first.title,
        description=first.description,
        start_date=start,
        end_date=start + timedelta(hours=first.hours_long),
        venue=first.venue,
        address=first.address,
        city=first.city,
        status=EventStatus(first.status),
        version=event.version + 1,
        updated_at=now,
    )


def _played(updated: Updated) -> dict[str, object]:
    return {
        "event": event_json(updated.event),
        "change": change_json(updated.change),
        "notification": notification_json(updated.notification),
    }
