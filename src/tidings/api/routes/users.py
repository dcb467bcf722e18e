"""Users: upsert, export, erase, and user tokens."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec
from fastapi import APIRouter, Depends
from pydantic import Field, JsonValue, model_validator
from starlette.responses import JSONResponse, Response, StreamingResponse

from tidings.api.context import RouteContext
from tidings.api.http.lookups import get_user_or_404, user_not_found
from tidings.api.routes.contact_points import ContactPointResponse, contact_point_response
from tidings.api.routes.suppressions import ProviderEventResponse, SuppressionResponse
from tidings.api.routes.topics import TopicResponse
from tidings.api.routes.user_schedule import ScheduleResponse, build_schedule_response
from tidings.api.schemas.digests import DigestExport
from tidings.api.schemas.inbox import InboxCountsResponse, InboxItemResponse
from tidings.api.schemas.notifications import DeliveryResponse, SkipResponse
from tidings.api.schemas.preferences import PreferenceResponse
from tidings.api.schemas.steps import StepResponse
from tidings.channels.plugin import ChannelPlugin
from tidings.channels.webpush.routes import DeviceResponse, device_response
from tidings.credentials import sign_user_token
from tidings.errors import ValidationFailed
from tidings.model.notification import Notification
from tidings.model.user import User
from tidings.observability import personal_data
from tidings.ports.store import Store
from tidings.schemas import field_types
from tidings.schemas.field_types import Country, Email, Label, LocaleTag, Phone, SmallObject, TimeZone
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import LOCATION_HEADER, ResponseModel, with_location


class UserBody(RequestModel):
    """A user of the host product. Fields that are left out are cleared."""

    email: Email | None = None
    phone: Phone | None = None
    locale: LocaleTag = "en"
    timezone: TimeZone = "UTC"
    city: Label | None = None
    attributes: SmallObject = Field(default_factory=dict)
    country: Country | None = None
    latitude: float | None = Field(None, ge=-90, le=90, allow_inf_nan=False, description="degrees north")
    longitude: float | None = Field(None, ge=-180, le=180, allow_inf_nan=False, description="degrees east")

    @model_validator(mode="after")
    def _check_location(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("give latitude and longitude, or neither")
        return self


class UserResponse(ResponseModel):
    """A user."""

    id: str
    email: str | None
    phone: str | None
    locale: str
    timezone: str
    city: str | None
    country: str | None
    latitude: float | None
    longitude: float | None
    attributes: dict[str, JsonValue]
    created_at: datetime | None
    updated_at: datetime | None


class NotificationExport(ResponseModel):
    """The content of a notification, without its audience."""

    id: str
    template_code: str
    template_version: int
    category: str
    priority: str
    variables: dict[str, JsonValue]
    action_url: str | None
    action_text: str | None
    source: str | None
    created_at: datetime
    send_at: datetime
    expires_at: datetime


class DeliveryExport(DeliveryResponse):
    """One delivery to the user, with its content."""

    notification: NotificationExport | None


class SkipExport(SkipResponse):
    """One message that the user did not receive, with its content."""

    notification: NotificationExport | None


class StepExport(StepResponse):
    """One later step of a notification for the user."""

    notification_id: str


class AwaitedEventExport(ResponseModel):
    """A domain event that a notification awaits for the user."""

    notification_id: str
    event: str
    #: null = it has not happened
    occurred_at: datetime | None


class LimitExport(ResponseModel):
    """The notifications to the user that count for an hourly limit."""

    #: code of a category with its own limit; empty = all other categories
    scope: str
    counted_at: list[datetime]


class KeyedCallExport(ResponseModel):
    """A stored idempotency key of the user's browser."""

    idempotency_key: str
    created_at: datetime


class ProfileExport(UserResponse):
    """The stored data of a user without deliveries and skips."""

    preferences: list[PreferenceResponse]
    schedule: ScheduleResponse
    devices: list[DeviceResponse]
    contact_points: list[ContactPointResponse]
    limits: list[LimitExport]
    keyed_calls: list[KeyedCallExport]
    #: accepted, and not yet fanned out
    unplanned: list[NotificationExport]
    inbox_counts: InboxCountsResponse
    topics: list[TopicResponse]
    #: names of the saved audiences that name the user explicitly
    saved_audiences: list[str]
    #: names of the recurring notifications whose audience names the user explicitly
    recurring_notifications: list[str]
    #: of the user's addresses, ended ones included
    suppressions: list[SuppressionResponse]
    #: what providers reported of the user's addresses
    provider_events: list[ProviderEventResponse]
    #: the data of each pack
    packs: dict[str, dict[str, JsonValue]]
    #: by channel, what it stores beside contact points
    channels: dict[str, dict[str, JsonValue]]


class UserExport(ProfileExport):
    """All stored data of a user (GDPR Art. 15 and 20), without the keys of their devices."""

    deliveries: list[DeliveryExport]
    skips: list[SkipExport]
    digests: list[DigestExport]
    #: the items of the feed, those that are not shown any more included
    inbox: list[InboxItemResponse]
    #: the later steps of notifications
    steps: list[StepExport]
    #: domain events that notifications await before their later steps are planned
    awaited_events: list[AwaitedEventExport]


class TokenResponse(ResponseModel):
    """A user token."""

    token: str
    expires_at: datetime


def to_user(user_id: str, body: UserBody) -> User:
    """Return the user record of a validated body."""
    return User(
        user_id,
        body.email,
        body.phone,
        body.locale,
        body.timezone,
        body.city,
        body.attributes,
        country=body.country,
        latitude=body.latitude,
        longitude=body.longitude,
    )


def check_user_id(user_id: str, field: str = "id") -> str:
    """Return a valid user id. Raises ValidationFailed."""
    try:
        return field_types.check_user_id(user_id)
    except ValueError as error:
        raise ValidationFailed.for_field(field, str(error)) from error


def router(context: RouteContext) -> APIRouter:
    """Return the routes under /users."""
    routes = APIRouter(tags=["users"], route_class=JsonRoute)
    store = context.store

    @routes.put(
        "/users/{user_id}",
        responses={
            200: {"model": UserResponse},
            201: {"model": UserResponse, "description": "created", "headers": LOCATION_HEADER},
        },
    )
    async def upsert(user_id: str, body: UserBody, _: str = Depends(context.require_scopes("notify"))) -> Response:
        """Create or replace a user. 201 if created, 200 if replaced."""
        user = to_user(check_user_id(user_id), body)
        async with store.transaction() as tx:
            (created,) = await store.users.upsert(tx, [user], context.clock.now())
            stored = await get_user_or_404(store, tx, user_id)
        content = UserResponse.model_validate(stored).json_object()
        return with_location(JSONResponse(content, 201 if created else 200), "/api/users")

    @routes.get("/users/{user_id}", responses={200: {"model": UserExport}})
    async def export(user_id: str, _: str = Depends(context.require_scopes("read"))) -> Response:
        """Return all stored data of the user, as one document. It is streamed."""
        async with store.read_snapshot() as tx:
            user = await get_user_or_404(store, tx, user_id)
            profile = await personal_data.load_profile(store, context.runtime.packs, context.runtime.plugins, tx, user)
        return StreamingResponse(_stream_export(store, profile, context.runtime.plugins), media_type="application/json")

    @routes.delete("/users/{user_id}", status_code=204)
    async def erase(user_id: str, _: str = Depends(context.require_scopes("admin"))) -> None:
        """Erase the user and all their stored data."""
        async with context.runtime.preferences.edit(user_id) as tx:
            if not await personal_data.erase_user(store, context.runtime.packs, context.runtime.plugins, tx, user_id):
                raise user_not_found(user_id)

    @routes.post("/users/{user_id}/token")
    async def token(user_id: str, _: str = Depends(context.require_scopes("notify"))) -> TokenResponse:
        """Create a token with which the user's browser acts as the user."""
        async with store.read_snapshot() as tx:
            await get_user_or_404(store, tx, user_id)
        return create_user_token(context, user_id)

    return routes


async def _stream_export(
    store: Store, profile: personal_data.Profile, plugins: Mapping[str, ChannelPlugin]
) -> AsyncIterator[bytes]:
    """Yield the JSON of a `UserExport`. What is unbounded comes last and is streamed."""
    user_id = profile.user.id
    deliveries, skips = personal_data.iter_deliveries(store, user_id), personal_data.iter_skips(store, user_id)
    sections: Mapping[str, AsyncIterator[bytes]] = {
        "deliveries": (
            _encode_export_item(DeliveryResponse.model_validate(one), notification)
            async for one, notification in deliveries
        ),
        "skips": (
            _encode_export_item(SkipResponse.model_validate(one), notification) async for one, notification in skips
        ),
        "digests": (
            _encode(DigestExport.from_digest_and_items(digest, items))
            async for digest, items in personal_data.iter_digests(store, user_id)
        ),
        "inbox": (
            _encode(InboxItemResponse.from_item(item)) async for item in personal_data.iter_inbox_items(store, user_id)
        ),
        "steps": (_encode(StepExport.from_step(step)) async for step in personal_data.iter_steps(store, user_id)),
        "awaitedEvents": (
            _encode(AwaitedEventExport.model_validate(one))
            async for one in personal_data.iter_awaited_events(store, user_id)
        ),
    }
    yield _encode(_profile_export(profile, plugins))[:-1]
    for name, items in sections.items():
        yield f',"{name}":['.encode()
        separator = b""
        async for item in items:
            yield separator + item
            separator = b","
        yield b"]"
    yield b"}"


def _encode(response: ResponseModel) -> bytes:
    return msgspec.json.encode(response.json_object())


def _profile_export(profile: personal_data.Profile, plugins: Mapping[str, ChannelPlugin]) -> ProfileExport:
    return ProfileExport(
        **UserResponse.model_validate(profile.user).model_dump(),
        preferences=[PreferenceResponse.from_preference(entry) for entry in profile.preferences],
        schedule=build_schedule_response(profile.schedule),
        devices=[device_response(device) for device in profile.devices],
        contact_points=[contact_point_response(point, plugins) for point in profile.contact_points],
        limits=[LimitExport.model_validate(limit) for limit in profile.limits],
        keyed_calls=[KeyedCallExport.model_validate(call) for call in profile.keyed_calls],
        unplanned=[NotificationExport.model_validate(notification) for notification in profile.unplanned],
        inbox_counts=InboxCountsResponse.from_counts(profile.inbox_counts),
        topics=[TopicResponse.model_validate(topic) for topic in profile.topics],
        saved_audiences=list(profile.saved_audiences),
        recurring_notifications=list(profile.recurring_notifications),
        suppressions=[SuppressionResponse.model_validate(one) for one in profile.suppressions],
        provider_events=[ProviderEventResponse.model_validate(event) for event in profile.provider_events],
        packs=msgspec.to_builtins(profile.packs),
        channels=msgspec.to_builtins(profile.channels),
    )


def _encode_export_item(item: ResponseModel, notification: Notification | None) -> bytes:
    content = None if notification is None else NotificationExport.model_validate(notification).json_object()
    return msgspec.json.encode(item.json_object() | {"notification": content})


def create_user_token(context: RouteContext, user_id: str) -> TokenResponse:
    """Return a new user token with the configured lifetime."""
    settings = context.runtime.settings
    # the claims hold whole seconds
    now = datetime.fromtimestamp(int(context.clock.now().timestamp()), UTC)
    ttl = timedelta(seconds=settings.user_token_ttl)
    return TokenResponse(token=sign_user_token(settings.user_secret, user_id, ttl, now), expires_at=now + ttl)
