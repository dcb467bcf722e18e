"""Every route with a JSON body parses it strictly, and authenticates the caller first."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

#: nested lists, one level more than the limit
TOO_DEEP = b"[" * 33 + b"]" * 33
MALFORMED = (
    b"",
    b"  ",
    b"{",
    b"{} {}",
    b'{"a": NaN}',
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b'{"a\\u0000": 1}',
    TOO_DEEP,
)


async def _routes(call: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (method, path, how to call) of every route with a JSON body; none of the ids in the paths exist."""

    def list_routes() -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, item in description["paths"].items():
            for method, operation in item.items():
                if "application/json" not in operation.get("requestBody", {}).get("content", {}):
                    continue
                schemes = [name for one in operation["security"] for name in one]
                caller = {"user": "u1"} if schemes == ["userToken"] else {} if schemes else {"key": None}
                address = path
                for name in ("event_id", "user_id", "notification_id"):
                    address = address.replace(f"{{{name}}}", "nobody-knows")
                yield method.upper(), address, caller

    description = (await call("GET", "/openapi.json", key=None)).json
    routes = list(list_routes())
    assert len(routes) > 15
    return routes


async def test_unusable_json_is_malformed_on_every_route(call: Any) -> None:
    for method, path, caller in await _routes(call):
        for body in MALFORMED:
            call.clock.time += timedelta(minutes=1)  # so that rate limits do not apply
            reply = await call(method, path, body=body, headers={"Content-Type": "application/json"}, **caller)
            assert (reply.status, reply.json["code"]) == (400, "malformed_json"), (method, path, body, reply.body)


async def test_json_that_is_not_an_object_is_an_error_of_the_body_on_every_route(call: Any) -> None:
    for method, path, caller in await _routes(call):
        for body in (b"null", b"[]", b'"text"', b"1"):
            reply = await call(method, path, body=body, **caller)
            assert reply.status == 422, (method, path, body, reply.body)
            assert reply.json["errors"] == [{"field": "", "message": "the body must be a JSON object"}]
            assert reply.json["detail"] == "the body must be a JSON object"


async def test_unknown_fields_are_rejected_on_every_route_with_a_list_of_known_ones(call: Any) -> None:
    for method, path, caller in await _routes(call):
        reply = await call(method, path, json={"odd": 1}, **caller)
        assert reply.status == 422, (method, path, reply.body)
        told = {one["field"]: one["message"] for one in reply.json["errors"]}
        if path == "/api/domain-events":
            # a CloudEvent may have extension attributes (CloudEvents 1.0 §3.3)
            assert "odd" not in told
            continue
        assert told["odd"].startswith("is not a known field; known are: "), (method, path)


async def test_authentication_precedes_validation_on_every_route(call: Any) -> None:
    for method, path, caller in await _routes(call):
        if caller != {"key": None}:
            reply = await call(method, path, body=b"{", key=None)
            assert (reply.status, reply.json["code"]) == (401, "unauthenticated"), (method, path)


async def test_the_type_of_a_body_may_be_left_out(call: Any) -> None:
    reply = await call("PUT", "/api/users/u3", body=b'{"locale": "de-CH"}')
    assert (reply.status, reply.json["locale"]) == (201, "de-CH")


@pytest.mark.parametrize("path", ["/api/events", "/api/dead-letters/replay"])
async def test_a_body_that_grows_too_large_keeps_its_code(call: Any, path: str) -> None:
    reply = await call("POST", path, body=[b" " * 65_536] * 20, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.json["code"]) == (413, "too_large")


async def test_a_key_that_is_too_long_is_named_on_every_route_that_takes_one(call: Any) -> None:
    event = {"title": "Jazz night", "startDate": "2027-01-01T20:00:00Z"}
    reply = await call("POST", "/api/events", json=event, headers={"Idempotency-Key": "k" * 256})
    assert (reply.status, [one["field"] for one in reply.json["errors"]]) == (422, ["Idempotency-Key"])
    for odd in ("", "a\tb"):
        reply = await call("POST", "/api/events", json=event, headers={"Idempotency-Key": odd})
        assert (reply.status, [one["field"] for one in reply.json["errors"]]) == (422, ["Idempotency-Key"])


async def test_a_repeated_event_is_created_once_and_has_its_location(call: Any) -> None:
    event = {"title": "Jazz night", "startDate": "2027-01-01T20:00:00Z"}
    first = await call("POST", "/api/events", json=event, headers={"Idempotency-Key": "k1"})
    again = await call("POST", "/api/events", json=event, headers={"Idempotency-Key": "k1"})
    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert len((await call("GET", "/api/events")).json["items"]) == 1
    refused = await call("POST", "/api/events", json=event | {"title": "Rock"}, headers={"Idempotency-Key": "k1"})
    assert (refused.status, refused.json["code"]) == (422, "idempotency_key_reused")


async def test_problems_are_documented_with_their_codes(call: Any) -> None:
    paths = (await call("GET", "/openapi.json", key=None)).json["paths"]
    created = paths["/api/events"]["post"]["responses"]
    assert {"400", "401", "403", "409", "413", "415", "422", "503"} <= created.keys()
    assert "malformed_json" in created["400"]["description"]
    assert "idempotency_key_reused" in created["422"]["description"]
    assert "missing_scope" in paths["/api/users/{user_id}"]["delete"]["responses"]["403"]["description"]
    assert "needs_user_token" in paths["/api/users/me/preferences"]["put"]["responses"]["403"]["description"]
    assert "401" not in paths["/health/live"]["get"]["responses"]
