"""Changes of a contact point: new secrets, enabling one that was disabled, and a replay of what it missed."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import APIRouter, Depends, params
from msgspec import structs
from pydantic import Field
from starlette.responses import Response

from tidings.api.accepting.idempotency import IdempotencyContext
from tidings.api.context import RouteContext
from tidings.api.http.lookups import get_user_or_404
from tidings.api.routes.contact_points import ContactPointResponse, contact_point_response
from tidings.channels.plugin import HasSecrets
from tidings.errors import Conflict, NotFound
from tidings.model.contact_health import MissedMessages
from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.secret_rotation import rotate_secrets
from tidings.model.user import caller_of
from tidings.ports.rate_limits import RateLimit
from tidings.ports.store import Transaction
from tidings.schemas.field_types import Instant
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel

#: missed messages that one call replays
MAX_REPLAYED = 500
DEFAULT_OVERLAP = timedelta(days=1)
MAX_OVERLAP = timedelta(days=7)
_CHANGE_RATE = RateLimit(30, 60)


class RotateSecretBody(RequestModel):
    """How long the present secrets keep signing."""

    overlap_seconds: int = Field(
        int(DEFAULT_OVERLAP.total_seconds()),
        ge=0,
        le=int(MAX_OVERLAP.total_seconds()),
        description="seconds for which the present secrets sign as well",
    )


class RotateSecretResponse(ResponseModel):
    """The new secrets."""

    id: str
    #: shown only once
    secrets: list[str]
    #: until then the secrets used so far sign as well
    old_secrets_end_at: datetime


class EnableBody(RequestModel):
    """Whether to send what was missed."""

    replay: bool = Field(False, description="send what was missed while it was disabled")


class EndpointReplayBody(RequestModel):
    """What to replay."""

    since: Instant | None = Field(None, description="replay what was missed since then; default: since it failed")


class ReplayResponse(ResponseModel):
    """A replay."""

    #: messages that are sent again
    replayed: int
    #: there are more; call again
    has_more: bool


class EnableResponse(ContactPointResponse):
    """A contact point that was enabled, and what it missed."""

    #: from when on messages were missed; null = none were
    missed_since: datetime | None
    #: missed messages that have not expired, at most 500
    missed: int
    #: there are more than `missed`
    has_more: bool
    #: messages that are sent again
    replayed: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who changes a contact point, and whose it is."""

    #: the name under which idempotency keys are stored
    name: str
    user_id: str


def router(context: RouteContext) -> APIRouter:
    """Return the routes for API keys, and those below `/users/me` for user tokens."""
    routes = APIRouter(tags=["users"], route_class=JsonRoute)
    require_user = context.authenticator.require_user()
    require_key = context.require_scopes("notify")

    async def find_user(user_id: str = Depends(require_user)) -> Caller:
        return Caller(caller_of(user_id), user_id)

    async def find_key(user_id: str, key_id: str = Depends(require_key)) -> Caller:
        return Caller(f"key:{key_id}", user_id)

    limit = Depends(context.rate_limited("contact-point-change", _CHANGE_RATE, require_user))
    _add_changes(routes, context, "/users/me/contact-points/{contact_point_id}", find_user, [limit])
    _add_changes(routes, context, "/users/{user_id}/contact-points/{contact_point_id}", find_key, [])
    return routes


def _add_changes(
    routes: APIRouter,
    context: RouteContext,
    path: str,
    find_caller: Callable[..., Awaitable[Caller]],
    dependencies: Sequence[params.Depends],
) -> None:
    """Add the routes below the path of a contact point. find_caller: a dependency."""

    @routes.post(f"{path}/rotate-secret", dependencies=dependencies)
    async def rotate(
        contact_point_id: str,
        body: RotateSecretBody,
        caller: Caller = Depends(find_caller),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Give a contact point a new signing secret. The old one signs as well during the overlap."""
        return await _rotate(context, idempotent, caller, contact_point_id, body)

    @routes.post(f"{path}/enable", dependencies=dependencies)
    async def enable(
        contact_point_id: str,
        body: EnableBody,
        caller: Caller = Depends(find_caller),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Enable a contact point that was disabled, and optionally send what it missed."""
        return await _enable(context, idempotent, caller, contact_point_id, body)

    @routes.post(f"{path}/replay", dependencies=dependencies)
    async def replay(
        contact_point_id: str,
        body: EndpointReplayBody,
        caller: Caller = Depends(find_caller),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Send what a contact point missed while it was disabled."""
        return await _replay(context, idempotent, caller, contact_point_id, body)


async def _rotate(
    context: RouteContext,
    idempotent: IdempotencyContext,
    caller: Caller,
    contact_point_id: str,
    body: RotateSecretBody,
) -> Response:
    async with idempotent(caller.name) as call:
        now = context.clock.now()
        point = await _get_locked(context, call.tx, caller.user_id, contact_point_id)
        plugin: object = context.runtime.plugins.get(point.channel)
        if not isinstance(plugin, HasSecrets):
            raise Conflict(f"Contact points of the channel {point.channel} have no secrets.", code="no_secrets")
        overlap = timedelta(seconds=body.overlap_seconds)
        secrets = plugin.create_secrets()
        await context.store.contact_points.update(call.tx, rotate_secrets(point, secrets, now, overlap), now)
        rotated = RotateSecretResponse(id=point.id, secrets=list(secrets), old_secrets_end_at=now + overlap)
        return call.respond(200, rotated.json_object())


async def _enable(
    context: RouteContext,
    idempotent: IdempotencyContext,
    caller: Caller,
    contact_point_id: str,
    body: EnableBody,
) -> Response:
    health_store = context.store.contact_health
    async with idempotent(caller.name) as call:
        now = context.clock.now()
        point = await _get_locked(context, call.tx, caller.user_id, contact_point_id)
        if point.state is ContactPointState.DISABLED:
            # a new version: outcomes of sends that began before do not disable it again
            point = structs.replace(point, state=ContactPointState.ACTIVE, version=point.version + 1)
            await context.store.contact_points.update(call.tx, point, now)
            await health_store.reset(call.tx, point.id)
        elif point.state is not ContactPointState.ACTIVE:
            raise Conflict(
                f"The contact point is {point.state}, as the provider reported; delete it and add it again.",
                code="contact_point_not_disabled",
            )
        health = await health_store.get(call.tx, point.id)
        missed = replayed = 0
        has_more = False
        if health.missed_since is not None:
            found = await health_store.list_missed(call.tx, point, health.missed_since, limit=MAX_REPLAYED, now=now)
            missed, has_more = found.count, found.has_more
            if body.replay:
                replayed = await _replay_found(context, call.tx, point, found, now)
        enabled = EnableResponse(
            **dict(contact_point_response(point, context.runtime.plugins)),
            missed_since=health.missed_since,
            missed=missed,
            has_more=has_more,
            replayed=replayed,
        )
        return call.respond(200, enabled.json_object())


async def _replay(
    context: RouteContext,
    idempotent: IdempotencyContext,
    caller: Caller,
    contact_point_id: str,
    body: EndpointReplayBody,
) -> Response:
    async with idempotent(caller.name) as call:
        now = context.clock.now()
        point = await _get_locked(context, call.tx, caller.user_id, contact_point_id)
        if point.state is not ContactPointState.ACTIVE:
            raise Conflict(f"The contact point is {point.state}; enable it first.", code="contact_point_not_active")
        health = await context.store.contact_health.get(call.tx, point.id)
        since = body.since or health.missed_since
        replayed, has_more = 0, False
        if since is not None:
            found = await context.store.contact_health.list_missed(call.tx, point, since, limit=MAX_REPLAYED, now=now)
            replayed, has_more = await _replay_found(context, call.tx, point, found, now), found.has_more
        return call.respond(200, ReplayResponse(replayed=replayed, has_more=has_more).json_object())


async def _replay_found(
    context: RouteContext, tx: Transaction, point: ContactPoint, found: MissedMessages, now: datetime
) -> int:
    await context.store.contact_health.replay(tx, point, found, now)
    if not found.has_more:
        await context.store.contact_health.clear_missed(tx, point.id)
    return found.count


async def _get_locked(context: RouteContext, tx: Transaction, user_id: str, contact_point_id: str) -> ContactPoint:
    """Return a contact point, locked, so that changes of it happen one after the other. Raises NotFound."""
    await get_user_or_404(context.store, tx, user_id, lock=True)
    point = await context.store.contact_points.get_locked(tx, user_id, contact_point_id)
    if point is None:
        raise NotFound("This user has no contact point with this id.", code="unknown_contact_point")
    return point
