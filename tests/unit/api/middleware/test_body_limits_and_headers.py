"""Limits of request bodies, and headers of every response."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from tidings.api.http.problem_details import RequestTimeout
from tidings.api.middleware import body_limits_and_headers

LIMIT = 1_048_576


async def test_a_body_that_is_declared_too_large_is_not_read(call: Any) -> None:
    reply = await call("POST", "/api/notifications", body=b"{}", headers={"Content-Length": str(LIMIT + 1)})
    assert (reply.status, reply.json["code"]) == (413, "too_large")
    assert reply.headers["connection"] == "close"


async def test_a_body_that_grows_too_large_while_it_streams_is_cut_off(call: Any) -> None:
    chunks = [b" " * 65_536] * 20
    reply = await call("POST", "/api/notifications", body=chunks, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.json["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-ndjson"}, 415),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 422),
        ({"Content-Type": "application/cloudevents+json"}, 422),
        ({}, 422),
    ],
)
async def test_bodies_are_plain_json(call: Any, headers: dict[str, str], status: int) -> None:
    assert (await call("POST", "/api/notifications", body=b"{}", headers=headers)).status == status


async def test_an_empty_body_needs_no_type(call: Any) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await call("POST", "/api/users/u1/token", body=b"", headers=form)).status == 200


@pytest.mark.parametrize("url", ["/api/notifications", "/demo/", "/docs", "/nowhere", "/sw.js"])
async def test_every_response_has_security_headers(call: Any, url: str) -> None:
    headers = (await call("GET", url)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy


async def test_responses_of_the_api_are_not_cached(call: Any) -> None:
    assert (await call("GET", "/api/notifications")).headers["cache-control"] == "no-store"


async def test_unknown_routes_and_methods_are_problems(call: Any) -> None:
    missing = await call("GET", "/api/nothing")
    assert (missing.status, missing.json["code"], missing.json["instance"]) == (404, "no_route", "/api/nothing")
    assert "/openapi.json" in missing.json["detail"]
    wrong = await call("PATCH", "/api/notifications")
    assert (wrong.status, wrong.json["code"]) == (405, "method_not_allowed")
    assert "allow" in wrong.headers


async def test_wrong_query_parameters_are_named(call: Any) -> None:
    reply = await call("GET", "/api/notifications?limit=0&state=odd")
    assert reply.status == 422
    assert {error["field"] for error in reply.json["errors"]} == {"limit", "state"}


async def test_an_unexpected_error_returns_only_an_id(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(call.runtime.store.notifications, "list_page", broken)
    with capture_logs() as logs:
        reply = await call("GET", "/api/notifications")
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert logs[0]["incident"] in reply.json["detail"]
    assert b"secret detail" not in reply.body
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_only_configured_origins_may_read_responses(call: Any) -> None:
    reply = await call("GET", "/api/notifications", headers={"Origin": "https://evil.example"})
    assert not any(name.startswith("access-control") for name in reply.headers)


async def test_a_stalled_body_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limits_and_headers, "BODY_READ_TIMEOUT", 0.01)

    async def reads_all(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    pieces = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        if pieces:
            return pieces.pop()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never completes

    async def send(_message: Message) -> None:
        raise AssertionError("nothing is answered here")

    scope = {"type": "http", "path": "/api/users/ana", "headers": []}
    with pytest.raises(RequestTimeout):
        await body_limits_and_headers.BodyLimitMiddleware(reads_all, 1000)(scope, receive, send)
