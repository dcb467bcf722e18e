"""Push subscriptions of the calling user, for its browser."""

import hashlib
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from msgspec import structs
from pydantic import Field, JsonValue
from starlette.responses import Response

from tidings.channels.webpush import base64url
from tidings.channels.webpush.key_ring import VapidKeyRing
from tidings.channels.webpush.receipt_routes import add_receipts
from tidings.channels.webpush.renewal_proof import compute_proof, is_proof
from tidings.channels.webpush.server_keys import get_channel
from tidings.errors import Conflict, Forbidden, ValidationFailed
from tidings.model.ids import new_id
from tidings.model.subscription import PushSubscription, SubscriptionState
from tidings.model.user import caller_of
from tidings.ports.pack_context import Idempotent, PackContext
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.ports.store import RegistrationResult, Transaction
from tidings.schemas.caching import cacheable_response
from tidings.schemas.field_types import Label
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel

#: a browser subscribes at most once per visit; a page in a loop must not fill the database
_SUBSCRIBE_RATE = RateLimit(30, 60)
#: seconds; a key stays valid for at least a day after it was replaced
_KEY_MAX_AGE = 300
#: by address, as the caller has no token. A push service may rotate the subscriptions of many browsers at once
_RENEW_RATE = RateLimit(60, 60)
#: used in place of the secret of an unknown subscription, so that its refusal takes the same time
_NO_SECRET = bytes(16)


#: not checked against the zones of this machine, which may be older than those of the browser
TimeZoneReport = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]


class SubscriptionKeys(RequestModel):
    """The device's keys, base64url."""

    #: the alias generator would produce p256Dh
    p256dh: str = Field(alias="p256dh")
    auth: str


class SubscribeBody(RequestModel):
    """`PushSubscription.toJSON()`, the user's name for the device, and the endpoint that it replaces."""

    endpoint: str = Field(max_length=2000)
    keys: SubscriptionKeys
    expiration_time: float | None = Field(None, description="as returned by the browser; not used")
    device: Label | None = None
    replaces: str | None = Field(None, max_length=2000)
    key_id: str | None = Field(None, max_length=36, description="id of the VAPID key; default: the current one")
    timezone: TimeZoneReport | None = Field(
        None, description="IANA name of the browser's time zone, for quiet hours; an unknown name is not used"
    )


class RenewBody(RequestModel):
    """The new subscription as `PushSubscription.toJSON()`, and the proof that it belongs to the browser of the old."""

    endpoint: str = Field(max_length=2000)
    keys: SubscriptionKeys
    expiration_time: float | None = Field(None, description="as returned by the browser; not used")
    replaces: str = Field(min_length=1, max_length=2000, description="the old endpoint")
    proof: str = Field(max_length=64, description="HMAC-SHA256 by a key derived from the old `auth`, base64url")


class UnsubscribeBody(RequestModel):
    """Selects one of the user's own subscriptions."""

    endpoint: str = Field(min_length=1, max_length=2000)


class PublicKeyResponse(ResponseModel):
    """The VAPID key for `pushManager.subscribe`."""

    public_key: str
    key_id: str


class SubscribeResponse(ResponseModel):
    """A stored subscription."""

    id: str
    state: str
    created: bool


class DeviceResponse(ResponseModel):
    """One of the user's devices, without the endpoint, which is a capability URL."""

    id: str
    device: str | None
    #: IANA name that the browser reported
    timezone: str | None
    #: the push service's host
    host: str
    #: SHA-256 of the endpoint, base64url: a browser recognises itself by it
    endpoint_hash: str
    state: str
    created_at: datetime | None
    #: when the browser last registered it
    last_seen_at: datetime | None


class DevicesResponse(ResponseModel):
    """All devices of the user."""

    items: list[DeviceResponse]


def create_router(context: PackContext) -> APIRouter:
    """Return the routes under /api/push."""
    routes = APIRouter(prefix="/api", tags=["push"], route_class=JsonRoute)
    store, key_ring = context.store, get_channel(context.channels).key_ring
    require_user = context.require_user()
    limit = context.rate_limited("push-change", _SUBSCRIBE_RATE, require_user)

    @routes.get(
        "/push/public-key",
        responses={200: {"model": PublicKeyResponse}, 304: {"description": "not modified, for `If-None-Match`"}},
    )
    async def public_key(request: Request) -> Response:
        """Return the VAPID public key for new subscriptions. The response can be cached, so it has no rate limit."""
        key, key_id = key_ring.public_key()
        content = PublicKeyResponse(public_key=key, key_id=key_id).json_object()
        return cacheable_response(request, content, version=key_id, max_age=_KEY_MAX_AGE)

    @routes.post(
        "/push/subscribe",
        status_code=201,
        responses={
            201: {"model": SubscribeResponse},
            200: {"model": SubscribeResponse, "description": "already registered"},
            409: {"description": "`subscription_ended`: unsubscribe in the browser, subscribe anew, and register that"},
        },
        dependencies=[Depends(limit)],
    )
    async def subscribe(
        body: SubscribeBody,
        user_id: str = Depends(require_user),
        idempotent: Idempotent = Depends(context.idempotent),
    ) -> Response:
        """Register the calling browser. 201 if it is new, 200 if it is already registered.

        409 with code `subscription_ended` if the push service ended this endpoint, which the browser may not have
        noticed. The browser must unsubscribe and subscribe anew, and register the new subscription with `replaces`.
        """
        subscription = _build_subscription(key_ring, user_id, body, context.clock.now())
        replaces = body.replaces if body.replaces != subscription.endpoint else None
        async with idempotent(caller_of(user_id)) as call:
            await context.get_user(call.tx, user_id, lock=True)
            result, stored = await store.subscriptions.register(
                call.tx, subscription, replaces=replaces, now=context.clock.now()
            )
            if result is RegistrationResult.REFUSED:
                raise Conflict("This endpoint belongs to another user.", code="endpoint_taken")
            if result is RegistrationResult.ENDED:
                raise Conflict(
                    "The push service ended this subscription. Unsubscribe in the browser, subscribe anew and register "
                    "the new subscription with `replaces`.",
                    code="subscription_ended",
                )
            created = result is not RegistrationResult.KNOWN
            response = SubscribeResponse(id=stored.id, state=stored.state, created=created)
            return call.respond(201 if created else 200, response.json_object())

    _add_renewal(routes, context)
    _add_own_devices(routes, context)
    add_receipts(routes, context)
    return routes


def _add_renewal(routes: APIRouter, context: PackContext) -> None:
    store, key_ring = context.store, get_channel(context.channels).key_ring

    @routes.post("/push/renew", dependencies=[Depends(context.rate_limited("push-renew", _RENEW_RATE))])
    async def renew(body: RenewBody) -> SubscribeResponse:
        """Replace a subscription that the browser or its push service rotated while no page was open.

        Needs no user token: the service worker proves that it knows the old subscription's secret. The subscription
        keeps its user and id, and what waits for the old endpoint is sent to the new one. May be repeated. 403 with
        code `renewal_refused` if the proof is wrong or the old endpoint is not registered (any more).
        """
        new = _parse_renewal(key_ring, body, context.clock.now())
        async with store.transaction() as tx:
            stored = await _renew(context, tx, body, new)
        if stored is None:
            raise Forbidden(
                "The old endpoint is not registered, or the proof is wrong. Register with a user token instead.",
                code="renewal_refused",
            )
        return SubscribeResponse(id=stored.id, state=stored.state, created=False)


def _add_own_devices(routes: APIRouter, context: PackContext) -> None:
    store, require_user = context.store, context.require_user()
    limit = context.rate_limited("push-change", _SUBSCRIBE_RATE, require_user)

    @routes.delete("/push/unsubscribe", status_code=204, dependencies=[Depends(limit)])
    async def unsubscribe(body: UnsubscribeBody, user_id: str = Depends(require_user)) -> None:
        """Remove one of the calling user's subscriptions. 204 also if it does not exist."""
        async with store.transaction() as tx:
            await store.subscriptions.remove(tx, user_id, body.endpoint)

    @routes.get("/push/subscriptions", dependencies=[Depends(context.rate_limited("read", READ_RATE, require_user))])
    async def subscriptions(user_id: str = Depends(require_user)) -> DevicesResponse:
        """List the calling user's own devices."""
        async with store.read_snapshot() as tx:
            devices = await store.subscriptions.list_by_user(tx, user_id)
        return DevicesResponse(items=[device_response(device) for device in devices])


def device_response(subscription: PushSubscription) -> DeviceResponse:
    """Return the public fields of a subscription."""
    return DeviceResponse(
        id=subscription.id,
        device=subscription.device,
        timezone=subscription.timezone,
        host=urlsplit(subscription.endpoint).hostname or "",
        endpoint_hash=base64url.encode(hashlib.sha256(subscription.endpoint.encode()).digest()),
        state=subscription.state,
        created_at=subscription.created_at,
        last_seen_at=subscription.last_seen_at,
    )


def _build_subscription(key_ring: VapidKeyRing, user_id: str, body: SubscribeBody, now: datetime) -> PushSubscription:
    subscription: dict[str, JsonValue] = {
        "endpoint": body.endpoint,
        "keys": {"p256dh": body.keys.p256dh, "auth": body.keys.auth},
    }
    endpoint, p256dh, auth = key_ring.parse_subscription(subscription)
    _, current = key_ring.public_key()
    if body.key_id is not None and not key_ring.is_active(body.key_id):
        raise ValidationFailed.for_field(
            "keyId", f"is not an active key of this server; subscribe with {current} from /api/push/public-key"
        )
    return PushSubscription(
        id=new_id(now),
        user_id=user_id,
        endpoint=endpoint,
        p256dh=p256dh,
        auth=auth,
        vapid_key_id=body.key_id or current,
        device=body.device,
        created_at=now,
        timezone=body.timezone,
    )


def _parse_renewal(key_ring: VapidKeyRing, body: RenewBody, now: datetime) -> PushSubscription:
    """Return the new subscription, still without user and VAPID key, which are those of the old one."""
    endpoint, p256dh, auth = key_ring.parse_subscription(
        {"endpoint": body.endpoint, "keys": {"p256dh": body.keys.p256dh, "auth": body.keys.auth}}
    )
    if endpoint == body.replaces:
        raise ValidationFailed.for_field("endpoint", "is the old endpoint itself; subscribe anew first")
    return PushSubscription(
        id=new_id(now), user_id="", endpoint=endpoint, p256dh=p256dh, auth=auth, vapid_key_id="", created_at=now
    )


async def _renew(
    context: PackContext, tx: Transaction, body: RenewBody, new: PushSubscription
) -> PushSubscription | None:
    """Return the stored subscription, None if the renewal is refused."""
    subscriptions = context.store.subscriptions
    old = await subscriptions.find_by_endpoint(tx, body.replaces)
    expected = compute_proof(
        _NO_SECRET if old is None else old.auth,
        replaces=body.replaces,
        endpoint=body.endpoint,
        p256dh=body.keys.p256dh,
        auth=body.keys.auth,
    )
    is_proven = is_proof(body.proof, expected)
    if old is not None:
        successor = structs.replace(
            new,
            user_id=old.user_id,
            vapid_key_id=old.vapid_key_id,
            device=old.device,
            id=old.id,
            timezone=old.timezone,
        )
        return await subscriptions.renew(tx, old, successor, context.clock.now()) if is_proven else None
    # a repeat, whose first response was lost, or the page was faster: the browser proves itself by the new keys
    known = await subscriptions.find_by_endpoint(tx, body.endpoint)
    is_repeat = known is not None and known.state is SubscriptionState.ACTIVE and known.has_keys_of(new)
    return known if is_repeat else None
