"""`Location`: where what was just made can be read, also when an answer is repeated."""

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
async def test_what_is_new_can_be_read_where_the_answer_says(
    call: Any, method: str, url: str, body: dict[str, Any], status: int
) -> None:
    made = await call(method, url, json=body)
    assert made.status == status, made.body
    # the server decodes a path before the application sees it
    assert (await call("GET", unquote(made.headers["location"]))).json["id"] == made.json["id"]


async def test_the_hosts_message_is_found_among_the_notifications(call: Any) -> None:
    event = (await call("POST", "/api/events", json=EVENT)).json["id"]
    sent = await call("POST", f"/api/events/{event}/notify", json={"title": "Doors", "body": "Open"})
    assert (sent.status, sent.headers["location"]) == (202, f"/api/notifications/{sent.json['id']}")


async def test_a_repeated_answer_leads_to_the_same_place(call: Any) -> None:
    body, headers = MESSAGE | {"userId": "u1"}, {"Idempotency-Key": "k1"}
    first, again = [await call("POST", "/api/notifications", json=body, headers=headers) for _ in range(2)]
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]


async def test_where_nothing_is_new_nothing_is_pointed_to(call: Any) -> None:
    estimate = await call("POST", "/api/notifications", json=MESSAGE | {"userId": "u1", "options": {"dryRun": True}})
    known = await call("PUT", "/api/users/u1", json={})
    assert (estimate.status, known.status) == (200, 200)
    assert "location" not in {**estimate.headers, **known.headers}
