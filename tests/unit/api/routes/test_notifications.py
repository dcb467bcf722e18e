"""Notifications over the API: accept, preview, follow, cancel, explain."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

Browser = Callable[..., dict[str, Any]]
BODY = {"userId": "u1", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
#: an audience that a worker plans, not the accept call
TO_ALL = {"audience": {"kind": "everyone"}, "templateCode": "MESSAGE", "variables": BODY["variables"]}


async def _fan_out(call: Any, notification_id: str) -> None:
    assert await call.runtime.pipeline.fan_out.plan_next_pages([notification_id]) == []


async def test_a_notification_is_accepted_planned_and_explained(call: Any, browser: Browser) -> None:
    await call("POST", "/api/push/subscribe", json=browser() | {"device": "Firefox on Linux"}, user="u1")
    accepted = await call("POST", "/api/notifications", json=BODY | {"userId": None, "userIds": ["u1", "u2"]})
    assert accepted.status == 202, accepted.body
    id_ = accepted.json["id"]
    assert accepted.json["status"] == "accepted"
    before = (await call("GET", f"/api/explain?userId=u1&notificationId={id_}")).json
    assert before["verdict"] == "waiting"
    await _fan_out(call, id_)

    stored = (await call("GET", f"/api/notifications/{id_}")).json
    assert (stored["status"], stored["recipients"], stored["deliveries"], stored["skipped"]) == ("fanned_out", 2, 1, 1)
    assert (stored["byState"], stored["finished"]) == ({"pending": 1}, False)
    assert stored["variables"] == BODY["variables"]

    trace = (await call("GET", f"/api/notifications/{id_}/trace")).json
    assert [one["userId"] for one in trace["deliveries"]] == ["u1"]
    assert [(one["userId"], one["reason"]) for one in trace["skips"]] == [("u2", "no_device")]
    assert trace["nextCursor"] is None
    mine = (await call("GET", f"/api/notifications/{id_}/deliveries?userId=u2")).json
    assert mine == {"items": [], "nextCursor": None}

    why = (await call("GET", f"/api/explain?userId=u1&notificationId={id_}")).json
    assert why["verdict"] == "waiting"
    assert "Firefox on Linux" in why["sentences"][1]
    why_not = (await call("GET", f"/api/explain?userId=u2&notificationId={id_}")).json
    assert why_not["verdict"] == "skipped"
    assert why_not["audience"]["holds"] is True
    shown = {one["channel"]: one for one in why_not["channels"]}["webpush"]
    assert (shown["decision"], shown["rule"], shown["reason"]) == ("skipped", "contact_point", "no_device")
    assert shown["inputs"] == {"category": "MESSAGE"}
    assert shown["preference"] == {"enabled": True, "entry": {"source": "category", "enabled": True}, "beaten": []}
    stranger = (await call("GET", f"/api/explain?userId=stranger&notificationId={id_}")).json
    assert stranger["verdict"] == "unknown_user"


async def test_the_trace_is_paged(call: Any, browser: Browser) -> None:
    ids = [f"p{number}" for number in range(5)]
    lines = b"\n".join(msgspec.json.encode({"id": user_id}) for user_id in ids)
    await call("POST", "/api/users/bulk", body=lines)
    for user_id in ids[:2]:
        await call("POST", "/api/push/subscribe", json=browser(user_id), user=user_id)
    accepted = await call("POST", "/api/notifications", json=BODY | {"userId": None, "userIds": ids})
    await _fan_out(call, accepted.json["id"])
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = (await call("GET", f"/api/notifications/{accepted.json['id']}/trace?limit=1{cursor}")).json
        seen += [one["userId"] for one in page["deliveries"] + page["skips"]]
        cursor = f"&cursor={page['nextCursor']}"
    assert page["nextCursor"] is None
    assert sorted(seen) == ids
    bad = await call("GET", f"/api/notifications/{accepted.json['id']}/trace?cursor=!")
    assert (bad.status, bad.json["errors"][0]["field"]) == (422, "cursor")


async def test_a_dry_run_counts_and_stores_nothing(call: Any, browser: Browser) -> None:
    await call("POST", "/api/push/subscribe", json=browser(), user="u1")
    body = {
        "audience": {"kind": "everyone"},
        "templateCode": "MESSAGE",
        "variables": BODY["variables"],
        "options": {"dryRun": True},
    }
    reply = await call("POST", "/api/notifications", json=body)
    assert reply.status == 200, reply.body
    assert reply.json == {
        "dryRun": True,
        "recipients": 2,
        "examined": 2,
        "byChannel": {"webpush": 1},
        "skipped": {"no_device": 1},
        "collected": 0,
        "sample": ["u1", "u2"],
        "previews": {},
        "plannedAt": "2026-11-22T12:00:00Z",
        "decisions": [
            {
                "userId": "u1",
                "channels": [
                    {
                        "channel": "webpush",
                        "decision": "send",
                        "at": "2026-11-22T12:00:00Z",
                        "rule": "on by default",
                        "reason": None,
                        "inputs": {},
                        "contactPoints": 1,
                        "aboveLimit": None,
                    }
                ],
                "steps": [],
            },
            {
                "userId": "u2",
                "channels": [
                    {
                        "channel": "webpush",
                        "decision": "skip",
                        "at": None,
                        "rule": "contact_point",
                        "reason": "no_device",
                        "inputs": {"category": "MESSAGE"},
                        "contactPoints": 0,
                        "aboveLimit": None,
                    }
                ],
                "steps": [],
            },
        ],
    }
    assert (await call("GET", "/api/notifications")).json["items"] == []


async def test_a_dry_run_has_a_clock_of_its_own(call: Any, browser: Browser) -> None:
    await call("POST", "/api/push/subscribe", json=browser(), user="u1")
    for options in ({"delay": 3_600_000}, {"sendAt": "2026-11-22T14:00:00+01:00"}):
        body = BODY | {"userId": "u1", "options": {**options, "dryRun": True}}
        reply = (await call("POST", "/api/notifications", json=body)).json
        assert reply["plannedAt"] == "2026-11-22T13:00:00Z"
        [decision] = reply["decisions"][0]["channels"]
        assert (decision["decision"], decision["at"]) == ("send", "2026-11-22T13:00:00Z")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"templateCode": "NOPE"}, "templateCode"),
        ({"userId": "nobody"}, "userId"),
        ({"variables": {"title": "Hi"}}, "variables.body"),
        ({"variables": BODY["variables"] | {"url": "javascript:alert(1)"}}, "variables"),  # type: ignore[operator]
        ({"options": {"channels": ["pigeon"]}}, "options.channels[0]"),
        ({"userId": None, "audience": {"kind": "nope"}}, "audience.kind"),
    ],
)
async def test_a_validation_error_of_the_pipeline_names_its_field(
    call: Any, change: dict[str, Any], field: str
) -> None:
    for dry_run in (False, True):
        body = BODY | change
        body["options"] = body.get("options", {}) | {"dryRun": dry_run}
        reply = await call("POST", "/api/notifications", json=body)
        if dry_run and field == "userId":
            continue  # an estimate counts existing users only
        assert reply.status == 422, reply.body
        assert [error["field"] for error in reply.json["errors"]] == [field]
    assert (await call("GET", "/api/notifications")).json["items"] == []


async def test_lists_are_paged_and_filtered(call: Any) -> None:
    ids = [(await call("POST", "/api/notifications", json=TO_ALL)).json["id"] for _ in range(3)]
    first = (await call("GET", "/api/notifications?limit=2")).json
    second = (await call("GET", f"/api/notifications?limit=2&cursor={first['nextCursor']}")).json
    assert [one["id"] for one in first["items"] + second["items"]] == ids[::-1]
    assert second["nextCursor"] is None
    bad = await call("GET", "/api/notifications?cursor=nonsense")
    assert (bad.status, bad.json["errors"][0]["field"]) == (422, "cursor")
    assert (await call("GET", "/api/notifications?state=cancelled")).json["items"] == []
    assert (await call("GET", "/api/notifications?templateCode=NEW_EVENT")).json["items"] == []
    assert len((await call("GET", "/api/notifications?templateCode=MESSAGE&state=accepted")).json["items"]) == 3
    await _fan_out(call, ids[0])
    assert [one["id"] for one in (await call("GET", "/api/notifications?userId=u1")).json["items"]] == [ids[0]]


async def test_the_notifications_of_a_user_include_what_a_digest_collects(call: Any, browser: Browser) -> None:
    await call("POST", "/api/push/subscribe", json=browser(), user="u1")
    collected = BODY | {"options": {"digest": {"windowSeconds": 600}}}
    id_ = (await call("POST", "/api/notifications", json=collected)).json["id"]
    await _fan_out(call, id_)
    user_id = BODY["userId"]
    assert [one["id"] for one in (await call("GET", f"/api/notifications?userId={user_id}")).json["items"]] == [id_]
    assert (await call("GET", "/api/notifications?userId=nobody")).json["items"] == []


async def test_cancelling_is_final_and_may_be_repeated(call: Any) -> None:
    id_ = (await call("POST", "/api/notifications", json=TO_ALL)).json["id"]
    for _ in range(2):
        reply = await call("DELETE", f"/api/notifications/{id_}")
        assert (reply.status, reply.json) == (200, {"id": id_, "status": "cancelled"})
    why = (await call("GET", f"/api/explain?userId=u1&notificationId={id_}")).json
    assert why["verdict"] == "cancelled"


async def test_a_finished_notification_cannot_be_cancelled(call: Any) -> None:
    id_ = (await call("POST", "/api/notifications", json=BODY)).json["id"]
    await _fan_out(call, id_)
    assert (await call("DELETE", f"/api/notifications/{id_}")).status == 409


async def test_an_unknown_notification_is_not_found(call: Any) -> None:
    for rest in ("", "/trace", "/deliveries"):
        reply = await call("GET", f"/api/notifications/none{rest}")
        assert (reply.status, reply.json["code"]) == (404, "unknown_notification")
    cancel = await call("DELETE", "/api/notifications/none")
    assert (cancel.status, cancel.json["code"]) == (404, "unknown_notification")
    assert (await call("GET", "/api/explain?userId=u1&notificationId=none")).status == 404


NDJSON = {"Content-Type": "application/x-ndjson"}


async def test_a_batch_has_a_result_per_line(call: Any) -> None:
    good, bad = msgspec.json.encode(BODY), msgspec.json.encode(BODY | {"userId": "nobody"})
    reply = await call("POST", "/api/notifications/batch", body=good + b"\n\n" + bad + b"\n{\n" + good, headers=NDJSON)
    assert reply.status == 200
    assert [(one["line"], one["status"]) for one in reply.lines] == [
        (1, "accepted"),
        (3, "refused"),
        (4, "refused"),
        (5, "accepted"),
    ]
    assert reply.lines[1]["error"]["errors"][0]["field"] == "userId"
    assert len((await call("GET", "/api/notifications")).json["items"]) == 2


async def test_ndjson_with_the_type_of_json_gets_a_hint(call: Any) -> None:
    reply = await call("POST", "/api/notifications/batch", body=msgspec.json.encode(BODY) + b"\r\n" + b"{}")
    assert (reply.status, reply.json["code"]) == (400, "malformed_json")
    assert "send Content-Type: application/x-ndjson" in reply.json["detail"]
    reply = await call("POST", "/api/notifications/batch", body=b"{")
    assert "Content-Type" not in reply.json["detail"]


async def test_a_repeated_batch_is_accepted_once(call: Any) -> None:
    raw = b"\n".join([msgspec.json.encode(BODY)] * 450)
    headers = NDJSON | {"Idempotency-Key": "b1"}
    first = await call("POST", "/api/notifications/batch", body=raw, headers=headers)
    again = await call("POST", "/api/notifications/batch", body=raw, headers=headers)
    assert first.body == again.body
    assert again.headers["idempotency-replayed"] == "true"
    assert len({one["id"] for one in first.lines}) == 450
    assert len((await call("GET", "/api/notifications?limit=500")).json["items"]) == 450
    other = await call("POST", "/api/notifications/batch", body=raw + b"\n" + raw[:100], headers=headers)
    assert other.json["code"] == "idempotency_key_reused"


async def test_a_batch_of_one_body_is_one_notification(call: Any) -> None:
    reply = await call("POST", "/api/notifications/batch", json=BODY | {"userId": None, "userIds": ["u1", "u2"]})
    assert reply.status == 202
    assert len((await call("GET", "/api/notifications")).json["items"]) == 1


async def test_too_many_lines_are_refused(call: Any) -> None:
    reply = await call("POST", "/api/notifications/batch", body=b"{}\n" * 10_001, headers=NDJSON)
    assert (reply.status, reply.json["code"]) == (413, "too_large")
