"""Push subscriptions of the calling user: the four routes of a browser (API.md)."""

from datetime import datetime
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from pydantic import Field, JsonValue
from starlette.responses import Response

from tidings.api.host import ApiHost
from tidings.api.known import known_user
from tidings.api.rates import Rate, limited
from tidings.edge import bodies, describe
from tidings.edge.answers import Shown
from tidings.edge.bodies import Body
from tidings.edge.text import Label
from tidings.errors import Conflict, Invalid
from tidings.model.ids import new_id
from tidings.model.subscription import PushSubscription
from tidings.ports.store import Registration, Transaction

#: a browser subscribes once a visit at most; a page that loops must not fill the database
_SUBSCRIBE_RATE = Rate(30, 60)
_KEY_RATE = Rate(300, 60)


class Keys(Body):
    """The device's keys, base64url."""

    #: the alias generator would write p256Dh
    p256dh: str = Field(alias="p256dh")
    auth: str


class SubscribeBody(Body):
    """`PushSubscription.toJSON()`, and what the user calls the device, and the endpoint it stands in for."""

    endpoint: str = Field(max_length=2000)
    keys: Keys
    expiration_time: float | None = Field(None, description="as the browser gives it; not used")
    device: Label | None = None
    replaces: str | None = Field(None, max_length=2000)
    key_id: str | None = Field(None, max_length=36, description="of the key subscribed with; default: the current one")


class UnsubscribeBody(Body):
    """Which of the user's own subscriptions ends."""

    endpoint: str = Field(min_length=1, max_length=2000)


class PublicKey(Shown):
    """What `pushManager.subscribe` needs."""

    public_key: str
    key_id: str


class Subscribed(Shown):
    """A subscription that is known now."""

    id: str
    state: str
    created: bool


class DeviceShown(Shown):
    """One of the user's devices. The endpoint stays here: it is a capability."""

    id: str
    device: str | None
    #: the push service's host
    host: str
    state: str
    created_at: datetime | None


class Devices(Shown):
    """All devices of the user."""

    items: list[DeviceShown]


def router(host: ApiHost) -> APIRouter:
    """Return the routes under /push."""
    routes = APIRouter(tags=["push"])
    runtime, store = host.runtime, host.store
    user = host.gate.user()
    limit = limited(_SUBSCRIBE_RATE, host.clock, user)

    @routes.get(
        "/push/public-key",
        dependencies=[Depends(limited(_KEY_RATE, host.clock))],
        openapi_extra=describe.called_by(),
    )
    async def public_key() -> PublicKey:
        """Return the key that new subscriptions are bound to."""
        key, key_id = runtime.push.public_key()
        return PublicKey(public_key=key, key_id=key_id)

    @routes.post(
        "/push/subscribe",
        status_code=201,
        responses={201: {"model": Subscribed}, 200: {"model": Subscribed, "description": "known already"}},
        dependencies=[Depends(limit)],
        openapi_extra=describe.takes(SubscribeBody, security="userToken", once=True),
    )
    async def subscribe(request: Request, user_id: str = Depends(user)) -> Response:
        """Register the calling browser. 201 if it is new, 200 if it is known."""
        body = bodies.read(await request.body(), SubscribeBody)
        wanted = _subscription(host, user_id, body)
        replaces = body.replaces if body.replaces != wanted.endpoint else None

        async def work(tx: Transaction) -> tuple[int, object]:
            await known_user(store, tx, user_id)
            came, kept = await store.subscriptions.register(tx, wanted, replaces=replaces, now=host.clock.now())
            if came is Registration.REFUSED:
                raise Conflict("This endpoint belongs to another user.", code="endpoint_taken")
            known = came is Registration.KNOWN
            return (200 if known else 201), Subscribed(id=kept.id, state=kept.state, created=not known).json_object()

        return await host.once(request, f"user:{user_id}", work)

    @routes.delete(
        "/push/unsubscribe",
        status_code=204,
        dependencies=[Depends(limit)],
        openapi_extra=describe.takes(UnsubscribeBody, security="userToken"),
    )
    async def unsubscribe(request: Request, user_id: str = Depends(user)) -> None:
        """Forget one of the calling user's subscriptions. One that is not known is gone already: 204 as well."""
        body = bodies.read(await request.body(), UnsubscribeBody)
        async with store.begin() as tx:
            await store.subscriptions.remove(tx, user_id, body.endpoint)

    @routes.get("/push/subscriptions", openapi_extra=describe.called_by("userToken"))
    async def subscriptions(user_id: str = Depends(user)) -> Devices:
        """List the calling user's own devices."""
        async with store.read() as tx:
            found = await store.subscriptions.of_user(tx, user_id)
        return Devices(items=[shown(one) for one in found])

    return routes


def shown(subscription: PushSubscription) -> DeviceShown:
    """Return what may be seen of a subscription."""
    return DeviceShown(
        id=subscription.id,
        device=subscription.device,
        host=urlsplit(subscription.endpoint).hostname or "",
        state=subscription.state,
        created_at=subscription.created_at,
    )


def _subscription(host: ApiHost, user_id: str, body: SubscribeBody) -> PushSubscription:
    given: dict[str, JsonValue] = {
        "endpoint": body.endpoint,
        "keys": {"p256dh": body.keys.p256dh, "auth": body.keys.auth},
    }
    endpoint, p256dh, auth = host.runtime.push.register(given)
    _, current = host.runtime.push.public_key()
    if body.key_id is not None and not host.runtime.push.knows(body.key_id):
        raise Invalid.field(
            "keyId", f"is no key of this server; subscribe with the one of /api/push/public-key, {current}"
        )
    now = host.clock.now()
    return PushSubscription(
        id=new_id(now),
        user_id=user_id,
        endpoint=endpoint,
        p256dh=p256dh,
        auth=auth,
        vapid_key_id=body.key_id or current,
        device=body.device,
        created_at=now,
    )
