"""Push subscriptions over the API."""

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tidings.channels.webpush.server_keys import rotate_keys
from tidings.model.subscription import SubscriptionState

Browser = Callable[..., dict[str, Any]]


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


async def test_the_public_key_needs_no_credentials(call: Any) -> None:
    reply = await call("GET", "/api/push/public-key", key=None)
    assert reply.status == 200
    assert len(base64.urlsafe_b64decode(reply.json["publicKey"] + "=")) == 65
    assert reply.json["keyId"]


async def test_the_public_key_is_cacheable_and_has_no_limit(call: Any) -> None:
    replies = [await call("GET", "/api/push/public-key", key=None) for _ in range(400)]
    assert {reply.status for reply in replies} == {200}
    headers = replies[0].headers
    assert headers["cache-control"] == "public, max-age=300"
    assert headers["vary"] == "Origin"
    for known in (headers["etag"], f'W/{headers["etag"]}, "x"', "*"):
        reply = await call("GET", "/api/push/public-key", key=None, headers={"If-None-Match": known})
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", headers["etag"])
    assert (await call("GET", "/api/push/public-key", headers={"If-None-Match": '"x"'})).status == 200


async def test_the_public_key_changes_with_its_version(call: Any) -> None:
    before = (await call("GET", "/api/push/public-key", key=None)).headers["etag"]
    call.clock.time += timedelta(days=60)
    await rotate_keys(call.runtime.channel_context)
    reply = await call("GET", "/api/push/public-key", key=None, headers={"If-None-Match": before})
    assert (reply.status, reply.headers["etag"] != before) == (200, True)


async def test_a_browser_subscribes_is_listed_and_unsubscribes(call: Any, browser: Browser) -> None:
    device = browser() | {"device": "Firefox on Linux"}
    first = await call("POST", "/api/push/subscribe", json=device, user="u1")
    assert (first.status, first.json["created"], first.json["state"]) == (201, True, "active")
    again = await call("POST", "/api/push/subscribe", json=device, user="u1")
    assert (again.status, again.json["created"], again.json["id"]) == (200, False, first.json["id"])
    listed = await call("GET", "/api/push/subscriptions", user="u1")
    (one,) = listed.json["items"]
    assert (one["device"], one["host"].split(":")[0], one["state"]) == ("Firefox on Linux", "127.0.0.1", "active")
    assert b"/push/" not in listed.body
    left = await call("DELETE", "/api/push/unsubscribe", json={"endpoint": device["endpoint"]}, user="u1")
    assert (left.status, left.body) == (204, b"")
    assert (await call("GET", "/api/push/subscriptions", user="u1")).json["items"] == []


async def test_a_device_is_a_contact_point_without_its_address(call: Any, browser: Browser) -> None:
    device = browser() | {"device": "Firefox on Linux"}
    added = (await call("POST", "/api/push/subscribe", json=device, user="u1")).json["id"]
    listed = await call("GET", "/api/users/me/contact-points", user="u1")
    [point] = listed.json["items"]
    assert (point["id"], point["channel"], point["address"]) == (added, "webpush", None)
    assert (point["label"], point["state"], b"/push/" in listed.body) == ("Firefox on Linux", "active", False)
    assert (await call("DELETE", f"/api/users/me/contact-points/{added}", user="u2")).status == 404
    assert (await call("DELETE", f"/api/users/me/contact-points/{added}", user="u1")).status == 204
    assert (await call("GET", "/api/push/subscriptions", user="u1")).json["items"] == []


async def test_unsubscribing_twice_is_no_error(call: Any) -> None:
    gone = {"endpoint": "http://127.0.0.1:9/push/x"}
    assert (await call("DELETE", "/api/push/unsubscribe", json=gone, user="u1")).status == 204


async def test_a_user_cannot_see_or_remove_another_users_subscription(call: Any, browser: Browser) -> None:
    device = browser()
    await call("POST", "/api/push/subscribe", json=device, user="u1")
    await call("DELETE", "/api/push/unsubscribe", json={"endpoint": device["endpoint"]}, user="u2")
    assert (await call("GET", "/api/push/subscriptions", user="u2")).json["items"] == []
    assert len((await call("GET", "/api/push/subscriptions", user="u1")).json["items"]) == 1


async def test_another_users_endpoint_is_not_taken_over_without_its_keys(call: Any, browser: Browser) -> None:
    await call("POST", "/api/push/subscribe", json=browser("same"), user="u1")
    reply = await call("POST", "/api/push/subscribe", json=browser("same"), user="u2")
    assert (reply.status, reply.json["code"]) == (409, "endpoint_taken")


async def test_a_new_endpoint_replaces_the_old_one(call: Any, browser: Browser) -> None:
    old, new = browser("old"), browser("new")
    await call("POST", "/api/push/subscribe", json=old, user="u1")
    await call("POST", "/api/push/subscribe", json=new | {"replaces": old["endpoint"]}, user="u1")
    assert len((await call("GET", "/api/push/subscriptions", user="u1")).json["items"]) == 1


async def test_replacing_an_endpoint_by_itself_keeps_it(call: Any, browser: Browser) -> None:
    device = browser()
    await call("POST", "/api/push/subscribe", json=device, user="u1")
    again = await call("POST", "/api/push/subscribe", json=device | {"replaces": device["endpoint"]}, user="u1")
    assert again.status == 200
    assert len((await call("GET", "/api/push/subscriptions", user="u1")).json["items"]) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "http://10.0.0.1/push"}, "endpoint"),
        ({"endpoint": "https://evil.example/push"}, "endpoint"),
        ({"endpoint": 5}, "endpoint"),
        ({"keys": {"p256dh": b64(b"\x04" + bytes(64)), "auth": b64(bytes(16))}}, "keys.p256dh"),
        ({"keys": {"p256dh": "x"}}, "keys.auth"),
        ({"surprise": True}, "surprise"),
        ({"device": ""}, "device"),
    ],
)
async def test_each_mistake_names_its_field_and_stores_nothing(
    call: Any, browser: Browser, change: dict[str, Any], field: str
) -> None:
    reply = await call("POST", "/api/push/subscribe", json=browser() | change, user="u1")
    assert reply.status == 422
    assert field in [error["field"] for error in reply.json["errors"]]
    assert (await call("GET", "/api/push/subscriptions", user="u1")).json["items"] == []


async def test_a_token_of_an_unknown_user_is_reported(call: Any, browser: Browser) -> None:
    reply = await call("POST", "/api/push/subscribe", json=browser(), user="stranger")
    assert (reply.status, reply.json["code"]) == (404, "unknown_user")


async def test_subscribing_in_a_loop_is_rate_limited(call: Any) -> None:
    replies = [await call("DELETE", "/api/push/unsubscribe", json={"endpoint": "x"}, user="u1") for _ in range(31)]
    assert replies[-2].status == 204
    assert replies[-1].status == 429
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert replies[-1].headers["ratelimit-remaining"] == "0"
    assert (await call("DELETE", "/api/push/unsubscribe", json={"endpoint": "x"}, user="u2")).status == 204


async def set_state(call: Any, subscription_id: str, state: SubscriptionState) -> None:
    """Mark a subscription as the record step does after the push service's answer."""
    async with call.runtime.store.transaction() as tx:
        assert await call.runtime.store.subscriptions.set_state(tx, [subscription_id], state, call.clock.now()) == 1


async def devices_of(call: Any, user: str) -> list[dict[str, Any]]:
    """Return the user's devices."""
    items: list[dict[str, Any]] = (await call("GET", "/api/push/subscriptions", user=user)).json["items"]
    return items


@pytest.mark.parametrize("state", ["gone", "rebind"])
@pytest.mark.parametrize("user", ["u1", "u2"])
async def test_an_endpoint_that_ended_must_be_replaced_by_a_new_one(
    call: Any, browser: Browser, state: str, user: str
) -> None:
    device, fresh = browser("old"), browser("new")
    first = await call("POST", "/api/push/subscribe", json=device, user="u1")
    await set_state(call, first.json["id"], SubscriptionState(state))
    again = await call("POST", "/api/push/subscribe", json=device, user=user)
    assert (again.status, again.json["code"]) == (409, "subscription_ended")
    assert [one["state"] for one in await devices_of(call, "u1")] == [state]
    renewed = await call("POST", "/api/push/subscribe", json=fresh | {"replaces": device["endpoint"]}, user="u1")
    assert (renewed.status, renewed.json["state"]) == (201, "active")
    assert [(one["id"], one["state"]) for one in await devices_of(call, "u1")] == [(first.json["id"], "active")]


async def test_a_browser_finds_itself_in_the_list_of_devices(call: Any, browser: Browser) -> None:
    device = browser()
    await call("POST", "/api/push/subscribe", json=device, user="u1")
    digest = hashlib.sha256(device["endpoint"].encode()).digest()
    [listed] = await devices_of(call, "u1")
    assert listed["endpointHash"] == b64(digest).rstrip("=")


def renewal(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a renewal. The proof is computed as documented in docs/reference/api.md."""
    auth = base64.urlsafe_b64decode(old["keys"]["auth"] + "==")
    key = HKDF(algorithm=SHA256(), length=32, salt=b"", info=b"tidings push renewal v1").derive(auth)
    lines = [old["endpoint"], new["endpoint"], new["keys"]["p256dh"], new["keys"]["auth"]]
    proof = hmac.digest(key, "\n".join(lines).encode(), "sha256")
    return new | {"replaces": old["endpoint"], "proof": b64(proof).rstrip("=")}


async def renew(call: Any, body: dict[str, Any]) -> Any:
    """Call the renewal as a service worker does, without credentials."""
    return await call("POST", "/api/push/renew", json=body, key=None)


async def test_a_worker_renews_its_subscription_without_a_token(call: Any, browser: Browser) -> None:
    old, new = browser("old"), browser("new")
    first = await call("POST", "/api/push/subscribe", json=old | {"device": "Phone"}, user="u1")
    await set_state(call, first.json["id"], SubscriptionState.GONE)
    for _ in range(2):  # the first response may be lost
        reply = await renew(call, renewal(old, new))
        assert (reply.status, reply.json) == (200, {"id": first.json["id"], "state": "active", "created": False})
    [device] = await devices_of(call, "u1")
    assert (device["id"], device["device"], device["state"]) == (first.json["id"], "Phone", "active")
    again = await call("POST", "/api/push/subscribe", json=new, user="u1")
    assert (again.status, again.json["id"]) == (200, first.json["id"])


async def test_a_renewal_needs_the_proof_of_the_old_secret(call: Any, browser: Browser) -> None:
    old, new, other = browser("old"), browser("new"), browser("other")
    await call("POST", "/api/push/subscribe", json=old, user="u1")
    good = renewal(old, new)
    forged = renewal(old | {"keys": new["keys"]}, new)
    attempts = [
        forged,
        good | {"proof": ""},
        good | {"proof": "no base64url!"},
        good | {"proof": good["proof"][:-2]},
        # the proof of another new subscription
        good | {"endpoint": other["endpoint"]},
        good | {"keys": other["keys"]},
        # an endpoint that is not registered
        renewal(other, new),
    ]
    for body in attempts:
        reply = await renew(call, body)
        assert (reply.status, reply.json["code"]) == (403, "renewal_refused")
    assert (await call("POST", "/api/push/subscribe", json=old, user="u1")).status == 200


async def test_a_renewal_registers_nothing_after_the_user_turned_notifications_off(call: Any, browser: Browser) -> None:
    old, new = browser("old"), browser("new")
    await call("POST", "/api/push/subscribe", json=old, user="u1")
    await call("DELETE", "/api/push/unsubscribe", json={"endpoint": old["endpoint"]}, user="u1")
    assert (await renew(call, renewal(old, new))).status == 403
    assert await devices_of(call, "u1") == []


async def test_a_renewal_does_not_take_over_another_users_endpoint(call: Any, browser: Browser) -> None:
    old, his = browser("old"), browser("his")
    await call("POST", "/api/push/subscribe", json=old, user="u1")
    await call("POST", "/api/push/subscribe", json=his, user="u2")
    assert (await renew(call, renewal(old, his))).status == 403
    assert [len(await devices_of(call, user)) for user in ("u1", "u2")] == [1, 1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "https://evil.example/push"}, "endpoint"),
        ({"endpoint": "http://127.0.0.1:9/push/old"}, "endpoint"),
        ({"keys": {"p256dh": "x", "auth": "y"}}, "keys.p256dh"),
        ({"replaces": ""}, "replaces"),
        ({"proof": None}, "proof"),
    ],
)
async def test_a_mistake_in_a_renewal_names_its_field(
    call: Any, browser: Browser, change: dict[str, Any], field: str
) -> None:
    old = browser("old")
    await call("POST", "/api/push/subscribe", json=old, user="u1")
    reply = await renew(call, renewal(old, browser("new")) | change)
    assert reply.status == 422
    assert field in [error["field"] for error in reply.json["errors"]]


async def test_renewals_of_one_address_are_rate_limited(call: Any, browser: Browser) -> None:
    body = renewal(browser("old"), browser("new"))
    replies = [await renew(call, body) for _ in range(61)]
    assert [replies[-2].status, replies[-1].status] == [403, 429]
    assert int(replies[-1].headers["retry-after"]) >= 1
