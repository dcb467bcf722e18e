"""Push subscriptions over the API."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

Browser = Callable[..., dict[str, Any]]


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


async def test_anybody_gets_the_public_key(call: Any) -> None:
    reply = await call("GET", "/api/push/public-key", key=None)
    assert reply.status == 200
    assert len(base64.urlsafe_b64decode(reply.json["publicKey"] + "=")) == 65
    assert reply.json["keyId"]
    assert reply.headers["ratelimit-limit"] == "300"
    assert reply.headers["ratelimit-remaining"] == "299"


async def test_a_browser_subscribes_is_known_is_listed_and_leaves(call: Any, browser: Browser) -> None:
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


async def test_leaving_twice_is_no_mistake(call: Any) -> None:
    gone = {"endpoint": "http://127.0.0.1:9/push/x"}
    assert (await call("DELETE", "/api/push/unsubscribe", json=gone, user="u1")).status == 204


async def test_nobody_ends_or_sees_somebody_elses_subscription(call: Any, browser: Browser) -> None:
    device = browser()
    await call("POST", "/api/push/subscribe", json=device, user="u1")
    await call("DELETE", "/api/push/unsubscribe", json={"endpoint": device["endpoint"]}, user="u2")
    assert (await call("GET", "/api/push/subscriptions", user="u2")).json["items"] == []
    assert len((await call("GET", "/api/push/subscriptions", user="u1")).json["items"]) == 1


async def test_an_endpoint_of_somebody_else_is_not_taken_over_without_its_keys(call: Any, browser: Browser) -> None:
    await call("POST", "/api/push/subscribe", json=browser("same"), user="u1")
    reply = await call("POST", "/api/push/subscribe", json=browser("same"), user="u2")
    assert (reply.status, reply.json["code"]) == (409, "endpoint_taken")


async def test_a_new_endpoint_stands_in_for_the_old_one(call: Any, browser: Browser) -> None:
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
    assert field in [fault["field"] for fault in reply.json["errors"]]
    assert (await call("GET", "/api/push/subscriptions", user="u1")).json["items"] == []


async def test_a_token_for_an_unknown_user_says_what_is_missing(call: Any, browser: Browser) -> None:
    reply = await call("POST", "/api/push/subscribe", json=browser(), user="stranger")
    assert (reply.status, reply.json["code"]) == (404, "unknown_user")


async def test_a_page_that_loops_is_slowed_down(call: Any) -> None:
    replies = [await call("DELETE", "/api/push/unsubscribe", json={"endpoint": "x"}, user="u1") for _ in range(31)]
    assert replies[-2].status == 204
    assert replies[-1].status == 429
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert replies[-1].headers["ratelimit-remaining"] == "0"
    assert (await call("DELETE", "/api/push/unsubscribe", json={"endpoint": "x"}, user="u2")).status == 204
