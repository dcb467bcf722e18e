"""The `Location` header leads to the created resource, also in a repeated response."""

from typing import Any
from urllib.parse import unquote

import pytest

MESSAGE = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
EVENT = {"title": "Jazz night", "startDate": "2026-12-22T19:00:00+01:00", "status": "ACTIVE"}


@pytest.mark.parametrize(
    ("method", "url", "body", "status"),
    [
        ("POST", "/api/notifications", MESSAGE | {"userId": "u1"}, 202),
        ("POST", "/api/notifications/batch", MESSAGE | {"userIds": ["u1", "u2"]}, 202),
        ("POST", "/api/events", EVENT, 201),
        ("PUT", "/api/users/ana|ä", {}, 201),
    ],
)
async def test_a_created_resource_is_readable_at_its_location(
    call: Any, method: str, url: str, body: dict[str, Any], status: int
) -> None:
    created = await call(method, url, json=body)
    assert created.status == status, created.body
    # the server decodes a path before it calls the application
    assert (await call("GET", unquote(created.headers["location"]))).json["id"] == created.json["id"]


async def test_the_hosts_message_is_found_among_the_notifications(call: Any) -> None:
    event = (await call("POST", "/api/events", json=EVENT)).json["id"]
    sent = await call("POST", f"/api/events/{event}/notify", json={"title": "Doors", "body": "Open"})
    assert (sent.status, sent.headers["location"]) == (202, f"/api/notifications/{sent.json['id']}")


async def test_a_repeated_response_has_the_same_location(call: Any) -> None:
    body, headers = MESSAGE | {"userId": "u1"}, {"Idempotency-Key": "k1"}
    first, again = [await call("POST", "/api/notifications", json=body, headers=headers) for _ in range(2)]
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]


async def test_a_response_that_creates_nothing_has_no_location(call: Any) -> None:
    estimate = await call("POST", "/api/notifications", json=MESSAGE | {"userId": "u1", "options": {"dryRun": True}})
    known = await call("PUT", "/api/users/u1", json={})
    assert (estimate.status, known.status) == (200, 200)
    assert "location" not in {**estimate.headers, **known.headers}
