"""A dry run is rejected for the same reasons as the real call, and unknown arguments of an audience are rejected."""

from typing import Any

import pytest

TEXT = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "There"}}
EVENT = {"title": "Recital", "startDate": "2027-06-21T19:00:00Z", "status": "ACTIVE"}
NOWHERE = "0190a3c0-8f00-7000-8000-000000000001"

INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown user": ({"userId": "nobody"}, "userId"),
    "an unknown user among others": ({"userIds": ["u1", "nobody"]}, "userIds"),
    "an unknown user in an audience": ({"audience": {"kind": "users", "userIds": ["nobody"]}}, "userIds"),
    "an unknown category": ({"audience": {"kind": "opted_in", "category": "NOPE"}}, "audience.category"),
    "an unknown event": ({"audience": {"kind": "ticket_holders", "eventId": NOWHERE}}, "audience.eventId"),
    "an unknown event of favourites": ({"audience": {"kind": "favourited", "eventId": "x"}}, "audience.eventId"),
    "an unknown event in a part": (
        {"audience": {"and": [{"kind": "everyone"}, {"or": [{"kind": "favourited", "eventId": "x"}]}]}},
        "audience.and[1].or[0].eventId",
    ),
    "an unknown event that is excluded": (
        {"audience": {"and": [{"kind": "everyone"}, {"not": {"kind": "ticket_holders", "eventId": "x"}}]}},
        "audience.and[1].not.eventId",
    ),
    "an unknown category that is excluded": (
        {"audience": {"not": {"kind": "opted_in", "category": "nope"}}},
        "audience.not.category",
    ),
    "an unknown kind": ({"audience": {"kind": "aliens"}}, "audience.kind"),
    "an unknown user who is excluded": ({"audience": {"not": {"kind": "users", "userIds": ["erased"]}}}, "userIds"),
    "an unknown template": ({"userId": "u1", "templateCode": "NOPE"}, "templateCode"),
    "a variable that is missing": ({"userId": "u1", "variables": {"title": "Hi"}}, "variables.body"),
    "an unknown channel": ({"userId": "u1", "options": {"channels": ["pigeon"]}}, "options.channels[0]"),
    "an unknown selection of channels": (
        {"userId": "u1", "options": {"channelSelection": "best"}},
        "options.channelSelection",
    ),
    "an end that is over": ({"userId": "u1", "options": {"expiresAt": "2020-01-01T00:00:00Z"}}, "options.expiresAt"),
    "a start too far ahead": ({"userId": "u1", "options": {"sendAt": "2030-01-01T00:00:00Z"}}, "options.sendAt"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_a_dry_run_is_rejected_like_the_real_call(call: Any, name: str) -> None:
    changes, field = INVALID[name]
    body = TEXT | changes
    real = await call("POST", "/api/notifications", json=body)
    dry = await call("POST", "/api/notifications", json=body | {"options": {**body.get("options", {}), "dryRun": True}})
    assert (real.status, dry.status) == (422, 422), (real.body, dry.body)
    assert dry.json["code"] == real.json["code"]
    assert dry.json["errors"] == real.json["errors"]
    assert [error["field"] for error in real.json["errors"]] == [field]


async def test_a_malformed_idempotency_key_is_rejected_by_both(call: Any) -> None:
    for options in ({}, {"dryRun": True}):
        body = TEXT | {"userId": "u1", "options": options}
        reply = await call("POST", "/api/notifications", json=body, headers={"Idempotency-Key": "k" * 300})
        assert reply.status == 422


async def test_a_valid_audience_is_accepted_by_both(call: Any) -> None:
    event_id = (await call("POST", "/api/events", json=EVENT)).json["id"]
    for audience in (
        {"kind": "ticket_holders", "eventId": event_id},
        {"kind": "favourited", "eventId": event_id},
        {"kind": "favourited_host", "hostId": "a host without events"},
        {"kind": "opted_in", "category": "NEW_EVENT"},
        {"kind": "city", "city": "a city without users"},
        {"and": [{"kind": "everyone"}, {"not": {"kind": "users", "userIds": ["u1"]}}]},
    ):
        body = TEXT | {"audience": audience}
        assert (await call("POST", "/api/notifications", json=body)).status == 202, audience
        assert (await call("POST", "/api/notifications", json=body | {"options": {"dryRun": True}})).status == 200


async def test_a_line_with_an_unknown_event_is_rejected_alone(call: Any) -> None:
    lines = b"\n".join(
        (
            b'{"templateCode": "MESSAGE", "userId": "u1", "variables": {"title": "a", "body": "b"}}',
            b'{"templateCode": "MESSAGE", "audience": {"kind": "favourited", "eventId": "x"},'
            b' "variables": {"title": "a", "body": "b"}}',
        )
    )
    headers = {"Content-Type": "application/x-ndjson"}
    reply = await call("POST", "/api/notifications/batch", body=lines, headers=headers)
    assert [line["status"] for line in reply.lines] == ["accepted", "refused"]
    assert reply.lines[1]["error"]["errors"][0]["field"] == "audience.eventId"
