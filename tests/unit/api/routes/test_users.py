"""Users and preferences over the API."""

from typing import Any

import msgspec
import pytest


async def test_a_user_is_created_replaced_exported_and_erased(call: Any) -> None:
    body = {"email": "ana@example.org", "phone": "+41441234567", "city": "Zürich", "attributes": {"plan": "gold"}}
    created = await call("PUT", "/api/users/ana", json=body)
    assert (created.status, created.json["locale"], created.json["createdAt"]) == (201, "en", "2026-11-22T12:00:00Z")
    replaced = await call("PUT", "/api/users/ana", json={"locale": "de-ch", "timezone": "Europe/Zurich"})
    assert (replaced.status, replaced.json["email"], replaced.json["locale"]) == (200, None, "de-CH")
    export = (await call("GET", "/api/users/ana")).json
    assert export["preferences"] == export["devices"] == []
    assert (await call("DELETE", "/api/users/ana")).status == 204
    assert (await call("GET", "/api/users/ana")).json["code"] == "unknown_user"
    assert (await call("DELETE", "/api/users/ana")).status == 404


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("/api/users/ana", {"email": "nope"}, "email"),
        ("/api/users/ana", {"phone": "044"}, "phone"),
        ("/api/users/ana", {"locale": "xx"}, "locale"),
        ("/api/users/ana", {"timezone": "Mars/Olympus"}, "timezone"),
        ("/api/users/ana", {"attributes": {"x": "y" * 20_000}}, "attributes"),
        ("/api/users/ana", {"nickname": "x"}, "nickname"),
        ("/api/users/me", {}, "id"),
        ("/api/users/" + "x" * 201, {}, "id"),
    ],
)
async def test_each_mistake_names_its_field(call: Any, url: str, body: dict[str, Any], field: str) -> None:
    reply = await call("PUT", url, json=body)
    assert reply.status == 422
    assert [error["field"] for error in reply.json["errors"]] == [field]


async def test_many_users_one_result_per_line(call: Any) -> None:
    lines = [{"id": f"b{number}", "locale": "de"} for number in range(1200)]
    lines[700] = {"id": "b0", "locale": "fr"}
    raw = b"\n".join(msgspec.json.encode(line) for line in lines) + b'\n\n{"id": "x", "locale": "xx"}\nnonsense'
    chunks = [raw[at : at + 1000] for at in range(0, len(raw), 1000)]
    reply = await call("POST", "/api/users/bulk", body=chunks, headers={"Content-Type": "application/x-ndjson"})
    assert reply.status == 200
    assert [line["line"] for line in reply.lines] == [*range(1, 1201), 1202, 1203]
    assert reply.lines[0] == {"line": 1, "id": "b0", "status": "created"}
    assert reply.lines[700]["status"] == "updated"
    assert reply.lines[1200]["error"]["errors"][0]["field"] == "locale"
    assert reply.lines[1201]["error"]["code"] == "malformed_json"
    assert (await call("GET", "/api/users/b0")).json["locale"] == "fr"
    assert (await call("GET", "/api/users/b1199")).status == 200


async def test_one_long_line_is_refused(call: Any) -> None:
    reply = await call("POST", "/api/users/bulk", body=[b"x" * 40_000, b"x" * 40_000])
    assert (reply.status, reply.json["code"]) == (413, "too_large")


async def test_preferences_show_defaults_and_choices(call: Any) -> None:
    change = {"preferences": [{"category": "EVENT_TIME_CHANGE", "channel": "webpush", "enabled": False}]}
    saved = await call("PUT", "/api/users/me/preferences", json=change, user="u1")
    assert saved.status == 200
    categories = {one["code"]: one for one in saved.json["categories"]}
    assert categories["EVENT_TIME_CHANGE"]["channels"]["webpush"] is False
    assert categories["EVENT_VENUE_CHANGE"]["channels"]["webpush"] is True
    assert categories["EVENT_CANCELLATION"]["mandatory"] is True
    assert (await call("GET", "/api/users/me/preferences", user="u1")).json == saved.json
    assert (await call("GET", "/api/users/u1/preferences")).json == saved.json
    others = {one["code"]: one for one in (await call("GET", "/api/users/u2/preferences")).json["categories"]}
    assert others["EVENT_TIME_CHANGE"]["channels"]["webpush"] is True


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        ({"category": "NOPE", "channel": "webpush", "enabled": True}, "preferences[0].category"),
        ({"category": "EVENT_TIME_CHANGE", "channel": "pigeon", "enabled": True}, "preferences[0].channel"),
        ({"category": "EVENT_CANCELLATION", "channel": "webpush", "enabled": False}, "preferences[0].enabled"),
        ({"category": "EVENT_TIME_CHANGE", "channel": "webpush", "enabled": 1}, "preferences[0].enabled"),
        ({"category": "EVENT_TIME_CHANGE", "channel": "webpush"}, "preferences[0].enabled"),
    ],
)
async def test_choices_that_cannot_be_made_change_nothing(call: Any, choice: dict[str, Any], field: str) -> None:
    before = (await call("GET", "/api/users/u1/preferences")).body
    reply = await call("PUT", "/api/users/u1/preferences", json={"preferences": [choice]})
    assert reply.status == 422
    assert [error["field"] for error in reply.json["errors"]] == [field]
    assert (await call("GET", "/api/users/u1/preferences")).body == before
