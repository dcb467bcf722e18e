"""Users: upsert, export, erase, and tokens for their browsers (API.md)."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Depends, Request
from pydantic import Field, JsonValue
from starlette.responses import JSONResponse, Response

from tidings.api.host import ApiHost
from tidings.api.known import known_user, unknown_user
from tidings.api.preferences import Choice
from tidings.api.push import DeviceShown, shown
from tidings.credentials import sign_user_token
from tidings.edge import bodies, describe, fields
from tidings.edge.answers import LOCATION, Shown, located
from tidings.edge.bodies import Body
from tidings.edge.fields import Email, LocaleTag, Phone, SmallObject, TimeZone
from tidings.edge.text import Label
from tidings.errors import Invalid
from tidings.model.user import User


class UserBody(Body):
    """A user as the host product knows them. What is left out is cleared."""

    email: Email | None = None
    phone: Phone | None = None
    locale: LocaleTag = "en"
    timezone: TimeZone = "UTC"
    city: Label | None = None
    attributes: SmallObject = Field(default_factory=dict)


class UserShown(Shown):
    """A user."""

    id: str
    email: str | None
    phone: str | None
    locale: str
    timezone: str
    city: str | None
    attributes: dict[str, JsonValue]
    created_at: datetime | None
    updated_at: datetime | None


class UserExport(UserShown):
    """Everything kept about a user (GDPR Art. 15 and 20), without secrets of their devices."""

    preferences: list[Choice]
    devices: list[DeviceShown]


class TokenShown(Shown):
    """A user token."""

    token: str
    expires_at: datetime


def user_of(user_id: str, body: UserBody) -> User:
    """Return the record of a checked body."""
    return User(user_id, body.email, body.phone, body.locale, body.timezone, body.city, body.attributes)


def check_id(user_id: str, field: str = "id") -> str:
    """Return a usable user id. Raises Invalid."""
    try:
        return fields.user_id(user_id)
    except ValueError as error:
        raise Invalid.field(field, str(error)) from error


def router(host: ApiHost) -> APIRouter:
    """Return the routes under /users."""
    routes = APIRouter(tags=["users"])
    store = host.store

    @routes.put(
        "/users/{user_id}",
        responses={200: {"model": UserShown}, 201: {"model": UserShown, "description": "new", "headers": LOCATION}},
        openapi_extra=describe.takes(UserBody),
    )
    async def upsert(user_id: str, request: Request, _: str = Depends(host.require("notify"))) -> Response:
        """Make the user known, or replace what is known. 201 if new, 200 if not."""
        wanted = user_of(check_id(user_id), bodies.read(await request.body(), UserBody))
        async with store.begin() as tx:
            (new,) = await store.users.upsert(tx, [wanted], host.clock.now())
            kept = await known_user(store, tx, user_id)
        answer = UserShown.model_validate(kept).json_object()
        return located(JSONResponse(answer, 201 if new else 200), "/api/users")

    @routes.get("/users/{user_id}")
    async def export(user_id: str, _: str = Depends(host.require("read"))) -> UserExport:
        """Return everything kept about the user."""
        async with store.read() as tx:
            user = await known_user(store, tx, user_id)
            choices = await store.users.preferences(tx, user_id)
            devices = await store.subscriptions.of_user(tx, user_id)
        return UserExport(
            **UserShown.model_validate(user).model_dump(),
            preferences=[Choice.model_validate(one) for one in choices],
            devices=[shown(one) for one in devices],
        )

    @routes.delete("/users/{user_id}", status_code=204)
    async def erase(user_id: str, _: str = Depends(host.require("admin"))) -> None:
        """Remove the user and everything kept about them."""
        async with host.runtime.choices.changing(user_id) as tx:
            if not await store.users.erase(tx, user_id):
                raise unknown_user(user_id)

    @routes.post("/users/{user_id}/token")
    async def token(user_id: str, _: str = Depends(host.require("notify"))) -> TokenShown:
        """Make a token that lets the user's browser act as the user."""
        async with store.read() as tx:
            await known_user(store, tx, user_id)
        return make_token(host, user_id)

    return routes


def make_token(host: ApiHost, user_id: str) -> TokenShown:
    """Return a user token of the configured life."""
    settings = host.runtime.settings
    # claims count whole seconds
    now = datetime.fromtimestamp(int(host.clock.now().timestamp()), UTC)
    life = timedelta(seconds=settings.user_token_ttl)
    return TokenShown(token=sign_user_token(settings.user_secret, user_id, life, now), expires_at=now + life)
