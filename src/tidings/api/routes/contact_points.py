"""Contact points of a user: addresses per channel. Push subscriptions appear here too; browsers register them."""

from collections.abc import Mapping
from datetime import datetime

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from tidings.api.accepting.idempotency import IdempotencyContext
from tidings.api.context import RouteContext
from tidings.api.http.lookups import get_user_or_404
from tidings.channels.plugin import ChannelPlugin, HasAddressCheck, HasSecretAddresses, HasSecrets
from tidings.errors import Conflict, NotFound, ValidationFailed
from tidings.model.contact_point import ContactPoint
from tidings.model.ids import new_id
from tidings.model.subscription import PushSubscription
from tidings.model.user import caller_of
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.schemas.field_types import Label
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel

#: contact points per user, over all channels; a page in a loop must not fill the database
MAX_CONTACT_POINTS = 50
_CHANGE_RATE = RateLimit(30, 60)


class ContactPointBody(RequestModel):
    """A new contact point."""

    channel: str = Field(min_length=1, max_length=32)
    address: str = Field(min_length=1, max_length=2_000, description="e-mail address, phone number or URL")
    label: Label | None = None


class ContactPointResponse(ResponseModel):
    """An address of the user on one channel."""

    id: str
    channel: str
    #: null for a device, whose endpoint is a capability URL; without its secrets if it has some
    address: str | None
    label: str | None
    state: str
    #: it is the e-mail address or phone number of the user's profile, and changes with it
    is_from_profile: bool
    created_at: datetime | None


class NewContactPointResponse(ContactPointResponse):
    """A contact point that was added."""

    #: signing secrets of a webhook endpoint; shown only once
    secrets: list[str]


class ContactPointsResponse(ResponseModel):
    """All contact points of the user."""

    items: list[ContactPointResponse]


def router(context: RouteContext) -> APIRouter:
    """Return the routes for API keys, and those below `/users/me` for user tokens."""
    routes = APIRouter(tags=["users"], route_class=JsonRoute)
    store = context.store
    require_user = context.authenticator.require_user()
    require_read, require_admin = context.require_scopes("read", "notify"), context.require_scopes("notify")
    read_limit = Depends(context.rate_limited("read", READ_RATE, require_user))
    change_limit = Depends(context.rate_limited("contact-point-change", _CHANGE_RATE, require_user))

    @routes.get("/users/me/contact-points", dependencies=[read_limit])
    async def list_own(user_id: str = Depends(require_user)) -> ContactPointsResponse:
        """List the calling user's contact points."""
        return await _list_all(context, user_id)

    @routes.post("/users/me/contact-points", status_code=201, dependencies=[change_limit])
    async def add_own(
        body: ContactPointBody,
        user_id: str = Depends(require_user),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Add a contact point of the calling user. 200 if the user has it already."""
        return await _add(context, idempotent, caller_of(user_id), user_id, body)

    @routes.delete("/users/me/contact-points/{contact_point_id}", status_code=204, dependencies=[change_limit])
    async def remove_own(contact_point_id: str, user_id: str = Depends(require_user)) -> None:
        """Delete a contact point of the calling user."""
        await _remove(context, user_id, contact_point_id)

    @routes.get("/users/{user_id}/contact-points", dependencies=[Depends(require_read)])
    async def list_all(user_id: str) -> ContactPointsResponse:
        """List a user's contact points."""
        return await _list_all(context, user_id)

    @routes.post("/users/{user_id}/contact-points", status_code=201)
    async def add(
        user_id: str,
        body: ContactPointBody,
        key_id: str = Depends(require_admin),
        idempotent: IdempotencyContext = Depends(context.idempotent),
    ) -> Response:
        """Add a contact point of a user. 200 if the user has it already."""
        return await _add(context, idempotent, f"key:{key_id}", user_id, body)

    @routes.delete(
        "/users/{user_id}/contact-points/{contact_point_id}", status_code=204, dependencies=[Depends(require_admin)]
    )
    async def remove(user_id: str, contact_point_id: str) -> None:
        """Delete a contact point of a user."""
        async with store.read_snapshot() as tx:
            await get_user_or_404(store, tx, user_id)
        await _remove(context, user_id, contact_point_id)

    return routes


async def _list_all(context: RouteContext, user_id: str) -> ContactPointsResponse:
    async with context.store.read_snapshot() as tx:
        await get_user_or_404(context.store, tx, user_id)
        points = await context.store.contact_points.list_by_user(tx, user_id)
        devices = await context.store.subscriptions.list_by_user(tx, user_id)
    shown = [contact_point_response(point, context.runtime.plugins) for point in points]
    return ContactPointsResponse(items=[*shown, *map(_device_response, devices)])


async def _add(
    context: RouteContext, idempotent: IdempotencyContext, caller: str, user_id: str, body: ContactPointBody
) -> Response:
    now = context.clock.now()
    address = _parse_address(context, body)
    plugin = context.runtime.plugins[body.channel]
    secrets = plugin.create_secrets() if isinstance(plugin, HasSecrets) else ()
    point = ContactPoint(new_id(now), user_id, body.channel, address, body.label, created_at=now, secrets=secrets)
    async with idempotent(caller) as call:
        await get_user_or_404(context.store, call.tx, user_id, lock=True)
        known = await context.store.contact_points.list_by_user(call.tx, user_id)
        if stored := next((one for one in known if (one.channel, one.address) == (point.channel, address)), None):
            return call.respond(200, contact_point_response(stored, context.runtime.plugins).json_object())
        if len(known) >= MAX_CONTACT_POINTS:
            raise Conflict(
                f"The user has {MAX_CONTACT_POINTS} contact points; delete one first.", code="too_many_contact_points"
            )
        await context.store.contact_points.add(call.tx, [point], now)
        created = NewContactPointResponse(
            **dict(contact_point_response(point, context.runtime.plugins)), secrets=list(secrets)
        )
        return call.respond(201, created.json_object())


async def _remove(context: RouteContext, user_id: str, contact_point_id: str) -> None:
    async with context.store.transaction() as tx:
        if not await context.store.contact_points.remove(tx, user_id, contact_point_id):
            raise NotFound("This user has no contact point with this id.", code="unknown_contact_point")


def _parse_address(context: RouteContext, body: ContactPointBody) -> str:
    plugin = context.runtime.plugins.get(body.channel)
    if plugin is None:
        known = ", ".join(sorted(context.runtime.plugins))
        raise ValidationFailed.for_field("channel", f"is not an installed channel; installed are {known}")
    try:
        address = plugin.parse_address(body.address, context.runtime.settings)
        if isinstance(plugin, HasAddressCheck):
            plugin.check_address(address, context.runtime.settings)
        return address
    except ValueError as error:
        raise ValidationFailed.for_field("address", str(error)) from error


def contact_point_response(point: ContactPoint, plugins: Mapping[str, ChannelPlugin]) -> ContactPointResponse:
    """Return the response for a contact point, without the secrets of its address. plugins: the channels by name."""
    plugin: object = plugins.get(point.channel)
    return ContactPointResponse(
        id=point.id,
        channel=point.channel,
        address=plugin.describe_address(point.address) if isinstance(plugin, HasSecretAddresses) else point.address,
        label=point.label,
        state=point.state,
        is_from_profile=point.is_from_profile,
        created_at=point.created_at,
    )


def _device_response(device: PushSubscription) -> ContactPointResponse:
    return ContactPointResponse(
        id=device.id,
        channel="webpush",
        address=None,
        label=device.device,
        state=device.state,
        is_from_profile=False,
        created_at=device.created_at,
    )
