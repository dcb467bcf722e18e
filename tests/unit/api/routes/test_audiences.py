"""Saved audiences are pinned at acceptance, nobody is an error, and estimates add up with the rules of the plan."""

from datetime import timedelta
from typing import Any

import pytest
from tests.support.asgi_client import Client

from tidings.model.audience import to_json, users
from tidings.model.contact_point import ContactPoint
from tidings.model.ids import new_id
from tidings.model.receipt import EventCause, ProviderEvent
from tidings.model.suppression import Suppression, SuppressionReason
from tidings.model.user import User

TEXT: dict[str, Any] = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "There"}}
PRO = {"kind": "attribute", "name": "plan", "operator": "eq", "value": "pro"}
VIP = {"kind": "saved", "name": "vip"}


async def put_user(call: Client, user_id: str, **fields: object) -> None:
    assert (await call("PUT", f"/api/users/{user_id}", json=fields)).status in (200, 201)


async def save(call: Client, name: str, definition: object) -> Any:
    return await call("PUT", f"/api/audiences/{name}", json={"definition": definition})


async def notify(call: Client, audience: object, **options: object) -> Any:
    return await call("POST", "/api/notifications", json=TEXT | {"audience": audience, "options": options})


def errors_of(reply: Any) -> list[tuple[str, str]]:
    assert reply.status == 422, reply.body
    return [(reply.json["code"], error["field"]) for error in reply.json["errors"]]


async def test_a_saved_audience_is_created_replaced_listed_and_deleted(call: Client) -> None:
    created = await call("PUT", "/api/audiences/vip", json={"definition": PRO, "description": "Who pays"})
    assert (created.status, created.headers["location"]) == (201, "/api/audiences/vip")
    assert (created.json["definition"], created.json["description"]) == (PRO, "Who pays")
    renamed = await call("PUT", "/api/audiences/vip", json={"audience": PRO, "description": "Who pays"})
    assert (renamed.status, renamed.json["definition"]) == (200, PRO)
    both = {"or": [PRO, {"kind": "users", "userIds": ["u1"]}]}
    assert (await save(call, "vip", both)).status == 200
    await save(call, "all", {"kind": "everyone"})
    first = (await call("GET", "/api/audiences?limit=1")).json
    assert [one["name"] for one in first["items"]] == ["all"]
    rest = (await call("GET", f"/api/audiences?cursor={first['nextCursor']}")).json
    assert [(one["name"], one["definition"]) for one in rest["items"]] == [("vip", both)]
    assert rest["nextCursor"] is None
    assert (await call("GET", "/api/audiences/vip")).json["description"] == ""
    assert (await call("DELETE", "/api/audiences/vip")).status == 204
    for method, path in (("DELETE", ""), ("GET", ""), ("GET", "/estimate"), ("GET", "/stats")):
        reply = await call(method, f"/api/audiences/vip{path}")
        assert (reply.status, reply.json["code"]) == (404, "unknown_audience")


@pytest.mark.parametrize(
    ("name", "definition", "field"),
    [
        ("vip", {"or": []}, "definition.or"),
        ("vip", {"kind": "aliens"}, "definition.kind"),
        ("vip", PRO | {"value": None}, "definition.value"),
        ("vip", PRO | {"value": 10**400}, "definition.value"),
        ("vip", {"not": {"kind": "topic", "topic": "nobody"}}, "definition.not.topic"),
        ("vip", {"kind": "users", "userIds": ["nobody"]}, "userIds"),
        ("vip", {"kind": "saved", "name": "unknown"}, "definition.name"),
        ("vip", {"and": [{"kind": "everyone"}, {"not": VIP}]}, "definition.and[1].not.name"),
        ("-vip", PRO, "name"),
        ("v" * 65, PRO, "name"),
    ],
)
async def test_f9_a_definition_with_a_fault_is_rejected_with_its_field(
    call: Client, name: str, definition: object, field: str
) -> None:
    assert [place for _, place in errors_of(await save(call, name, definition))] == [field]
    assert (await call("GET", "/api/audiences")).json["items"] == []


NOT_NOBODY = {"not": {"kind": "users", "userIds": ["nobody"]}}


@pytest.mark.parametrize("audience", [NOT_NOBODY, {"and": [{"kind": "everyone"}, NOT_NOBODY]}, {"not": NOT_NOBODY}])
async def test_f9_an_unknown_user_under_not_is_rejected(call: Client, audience: object) -> None:
    await put_user(call, "ana")
    for path, body in (
        ("/api/notifications", TEXT | {"audience": audience}),
        ("/api/notifications", TEXT | {"audience": audience, "options": {"dryRun": True}}),
        ("/api/audiences/estimate", {"audience": audience}),
    ):
        assert errors_of(await call("POST", path, json=body)) == [("unknown_user", "userIds")], path
    assert errors_of(await save(call, "vip", audience)) == [("unknown_user", "userIds")]


NOT_EMIAL = {"not": {"kind": "engaged", "action": "any", "channel": "emial", "days": 3}}
NOT_ZUERICH = {"not": {"kind": "timezone", "timezones": ["", "Europe/Zuerich", "Europe/Zurich", "MON 25:00"]}}


@pytest.mark.parametrize(
    ("audience", "field", "named"),
    [
        (NOT_EMIAL, "not.channel", "no channel 'emial'; did you mean 'email'?"),
        (NOT_ZUERICH, "not.timezones", "'Europe/Zuerich', 'MON 25:00'"),
    ],
)
async def test_f9_an_unknown_channel_or_time_zone_is_rejected(
    call: Client, audience: object, field: str, named: str
) -> None:
    reply = await notify(call, audience)
    assert [place for _, place in errors_of(reply)] == [f"audience.{field}"]
    assert named in reply.json["errors"][0]["message"]
    assert [place for _, place in errors_of(await save(call, "vip", audience))] == [f"definition.{field}"]


async def test_an_installed_channel_and_a_time_zone_in_lower_case_are_accepted(call: Client) -> None:
    await put_user(call, "ana", timezone="Europe/Zurich")
    await put_user(call, "ben", timezone="Asia/Tokyo")
    installed = {"kind": "not_engaged", "action": "any", "channel": "sms", "days": 3}
    tokyo = {"kind": "timezone", "timezones": ["asia/tokyo"]}
    estimate = await call("POST", "/api/audiences/estimate", json={"audience": {"and": [installed, tokyo]}})
    assert (estimate.json["size"], estimate.json["sample"]) == (1, ["ben"])


async def test_a_time_zone_that_only_a_user_has_is_accepted(call: Client) -> None:
    mars = {"kind": "timezone", "timezones": ["Mars/Olympus"]}
    assert (await notify(call, mars)).status == 422
    async with call.runtime.store.transaction() as tx:
        # from a machine with newer data of time zones
        await call.runtime.store.users.upsert(tx, [User("ana", timezone="Mars/Olympus")], call.clock.now())
    assert (await notify(call, mars)).status == 202


async def test_a_user_erased_from_the_exclusion_of_a_saved_audience_does_not_make_it_fail(call: Client) -> None:
    await put_user(call, "ana")
    await put_user(call, "ben")
    await put_user(call, "cleo")
    but_ben = {"and": [{"kind": "everyone"}, {"not": {"kind": "users", "userIds": ["ben", "cleo"]}}]}
    assert (await save(call, "vip", but_ben)).status == 201
    assert (await call("DELETE", "/api/users/ben")).status == 204
    assert (await notify(call, VIP)).status == 202


async def test_an_audience_by_itself_is_a_definition(call: Client) -> None:
    assert (await call("PUT", "/api/audiences/vip", json=PRO)).json["definition"] == PRO
    everyone_but = {"and": [{"kind": "everyone"}, {"not": VIP}]}
    assert (await call("PUT", "/api/audiences/others", json=everyone_but)).json["definition"] == everyone_but


async def test_two_definitions_cannot_mention_each_other(call: Client) -> None:
    assert (await save(call, "a", PRO)).status == 201
    assert (await save(call, "b", {"not": {"kind": "saved", "name": "a"}})).status == 201
    reply = await save(call, "a", {"kind": "saved", "name": "b"})
    assert "a → b → a" in reply.json["errors"][0]["message"]
    assert (await call("GET", "/api/audiences/a")).json["definition"] == PRO


async def test_f9_an_unknown_or_empty_saved_audience_reaches_nobody_with_an_error(call: Client) -> None:
    everyone_but = {"and": [{"kind": "everyone"}, {"not": VIP}]}
    for dry_run in (True, False):
        assert errors_of(await notify(call, VIP, dryRun=dry_run)) == [("unknown_audience", "audience.name")]
        assert errors_of(await notify(call, everyone_but, dryRun=dry_run)) == [
            ("unknown_audience", "audience.and[1].not.name")
        ]
    await save(call, "vip", PRO)
    for dry_run in (True, False):
        assert errors_of(await notify(call, VIP, dryRun=dry_run)) == [("empty_audience", "audience")]
    assert (await call("GET", "/api/notifications")).json["items"] == []
    assert (await notify(call, everyone_but)).status == 202


async def test_a_notification_keeps_the_definition_with_which_it_was_accepted(call: Client) -> None:
    await put_user(call, "u1", attributes={"plan": "pro"})
    await save(call, "vip", PRO)
    later = (call.clock.now() + timedelta(days=1)).isoformat()
    first = (await notify(call, VIP, sendAt=later)).json["id"]
    await save(call, "vip", {"kind": "users", "userIds": ["u2"]})
    second = (await notify(call, VIP, sendAt=later)).json["id"]
    await call("DELETE", "/api/audiences/vip")
    async with call.runtime.store.read_snapshot() as tx:
        stored = {
            one.id: to_json(one.audience)
            for one in await call.runtime.store.notifications.get_many(tx, [first, second])
        }
    assert stored == {first: PRO, second: to_json(users("u2"))}
    audience = {"kind": "engaged", "action": "any", "days": 7}
    third = (await notify(call, audience, sendAt=later)).json["id"]
    async with call.runtime.store.read_snapshot() as tx:
        [found] = await call.runtime.store.notifications.get_many(tx, [third])
    assert to_json(found.audience) == {"kind": "engaged", "action": "any", "since": "2026-11-15T12:00:00+00:00"}


async def test_topics_are_of_the_user_and_select_an_audience(call: Client) -> None:
    assert errors_of(await notify(call, {"kind": "topic", "topic": "jazz"})) == [("invalid", "audience.topic")]
    assert (await call("GET", "/api/users/me/topics/jazz", user="u1")).status == 404
    assert (await call("PUT", "/api/users/me/topics/jazz", user="u1")).json["topic"] == "jazz"
    assert (await call("PUT", "/api/users/me/topics/jazz", user="u1")).status == 200
    assert (await call("PUT", "/api/users/u1/topics/rock")).status == 200
    assert (await call("PUT", "/api/users/nobody/topics/rock")).status == 404
    assert (await call("PUT", "/api/users/u1/topics/a b")).status == 422
    first = (await call("GET", "/api/users/me/topics?limit=1", user="u1")).json
    assert ([one["topic"] for one in first["items"]], first["nextCursor"]) == (["jazz"], "jazz")
    rest = (await call("GET", "/api/users/u1/topics?cursor=jazz")).json
    assert ([one["topic"] for one in rest["items"]], rest["nextCursor"]) == (["rock"], None)
    assert (await call("GET", "/api/users/me/topics", user="u2")).json["items"] == []
    dry = await notify(call, {"kind": "topic", "topic": "jazz"}, dryRun=True)
    assert (dry.json["recipients"], dry.json["sample"]) == (1, ["u1"])
    assert (await call("DELETE", "/api/users/me/topics/jazz", user="u1")).status == 204
    assert (await call("DELETE", "/api/users/u1/topics/jazz")).status == 204
    assert (await call("GET", "/api/users/u1/topics/rock")).status == 200


async def test_a_user_has_a_bounded_number_of_topics(call: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.api.routes.topics.MAX_TOPICS_PER_USER", 2)
    replies = [(await call("PUT", f"/api/users/u1/topics/{name}")).status for name in ("a", "b", "c", "a")]
    assert replies == [200, 200, 422, 200]
    assert len((await call("GET", "/api/users/u1/topics")).json["items"]) == 2


async def test_the_place_of_a_user_is_validated_stored_and_cleared(call: Client) -> None:
    await put_user(call, "u1", country="ch", latitude=47.37, longitude=8.54)
    shown = (await call("GET", "/api/users/u1")).json
    assert (shown["country"], shown["latitude"], shown["longitude"]) == ("CH", 47.37, 8.54)
    for fields in (
        {"country": "Switzerland"},
        {"latitude": 47.37},
        {"latitude": 91, "longitude": 0},
        {"latitude": "47", "longitude": 8},
    ):
        assert (await call("PUT", "/api/users/u1", json=fields)).status == 422, fields
    await put_user(call, "u1")
    assert (await call("GET", "/api/users/u1")).json["latitude"] is None


async def add_addresses(call: Client) -> None:
    """Give u1 a usable and a suppressed address, u2 a suppressed one, and u3 none and no consent."""
    store, now = call.runtime.store, call.clock.now()
    await put_user(call, "u3")
    off = {"preferences": [{"category": "MESSAGE", "channel": "inapp", "enabled": False}]}
    assert (await call("PUT", "/api/users/u3/preferences", json=off)).status == 200
    addresses = [("u1", "a@example.org"), ("u1", "b@example.org"), ("u2", "b@example.org")]
    async with store.transaction() as tx:
        points = [ContactPoint(new_id(now), user, "email", address, created_at=now) for user, address in addresses]
        await store.contact_points.add(tx, points, now)
        bounced = SuppressionReason.HARD_BOUNCE
        await store.suppressions.add(tx, Suppression(new_id(now), "email", bounced, "b@example.org", now, now))


async def test_f10_an_estimate_adds_up_per_channel_with_the_reasons(call: Client) -> None:
    await add_addresses(call)
    object.__setattr__(call.runtime.catalog, "channels", ("webpush", "email", "inapp"))
    body = {"audience": {"kind": "everyone"}, "channels": ["email", "inapp", "webpush", "sms"]}
    estimate = (await call("POST", "/api/audiences/estimate", json=body)).json
    assert estimate == {
        "size": 3,
        "examined": 3,
        "reachable": 2,
        "unreachable": 1,
        "channels": {
            "email": {"reachable": 1, "excluded": {"no_contact_point": 1, "suppressed": 1}},
            "inapp": {"reachable": 2, "excluded": {"preference_off": 1}},
            "webpush": {"reachable": 0, "excluded": {"no_device": 3}},
            "sms": {"reachable": 0, "excluded": {"channel_not_set_up": 3}},
        },
        "sample": ["u1", "u2", "u3"],
        "nextCursor": None,
    }
    for channel in estimate["channels"].values():
        assert channel["reachable"] + sum(channel["excluded"].values()) == estimate["examined"]


async def test_an_estimate_continues_in_parts_that_add_up(call: Client) -> None:
    for number in range(7):
        await put_user(call, f"p{number}", attributes={"plan": "pro"})
    await save(call, "vip", PRO)
    parts = []
    cursor: str | None = ""
    while cursor is not None:
        part = (await call("GET", f"/api/audiences/vip/estimate?limit=3{cursor and f'&cursor={cursor}'}")).json
        parts.append(part)
        cursor = part["nextCursor"]
    assert [(part["size"], part["examined"]) for part in parts] == [(7, 3), (None, 3), (None, 1)]
    assert [one for part in parts for one in part["sample"]] == [f"p{number}" for number in range(7)]
    exact = (await call("GET", "/api/audiences/vip/estimate?limit=7&channel=inapp&channel=sms")).json
    assert (exact["examined"], exact["nextCursor"], list(exact["channels"])) == (7, None, ["inapp", "sms"])


async def test_an_estimate_is_rejected_for_the_reasons_of_the_real_call(call: Client) -> None:
    for body, field in (
        ({"audience": VIP}, "audience.name"),
        ({"audience": {"kind": "everyone"}, "category": "NOPE"}, "category"),
        ({"audience": {"kind": "everyone"}, "channels": ["sms", "pigeon"]}, "channels[1]"),
        ({"audience": {"kind": "users", "userIds": ["nobody"]}}, "userIds"),
        ({"audience": {"and": [{"kind": "topic", "topic": "none"}]}}, "audience.and[0].topic"),
        ({"audience": {"or": []}}, "audience.or"),
        ({"audience": {"kind": "everyone"}, "limit": 20_001}, "limit"),
    ):
        assert [place for _, place in errors_of(await call("POST", "/api/audiences/estimate", json=body))] == [field]


async def test_statistics_count_the_most_engaged_channel_first(call: Client) -> None:
    await add_addresses(call)
    await save(call, "all", {"kind": "everyone"})
    store, now = call.runtime.store, call.clock.now()
    async with store.transaction() as tx:
        for days, user, channel, cause in (
            (1, "u1", "email", EventCause.OPEN),
            (2, "u1", "email", EventCause.CLICK),
            (1, "u1", "sms", EventCause.CLICK),
            (3, "u2", "sms", EventCause.CLICK),
            (1, "u2", "email", EventCause.MACHINE_OPEN),
            (40, "u3", "email", EventCause.OPEN),
        ):
            event = ProviderEvent(
                channel, "tidings", new_id(now), now - timedelta(days=days), cause=cause, user_id=user
            )
            await store.receipts.add(tx, event, now)
        by_address = ProviderEvent("email", "postmark", "e1", now, cause=EventCause.OPEN, recipient="b@example.org")
        await store.receipts.add(tx, by_address, now)
        found = await store.audiences.load_engagement(tx, ["u1", "u2", "u3"], now - timedelta(days=30))
    assert {user: {name: one.count for name, one in channels.items()} for user, channels in found.items()} == {
        # an event of a shared address counts for both
        "u1": {"email": 3, "sms": 1},
        "u2": {"sms": 1, "email": 1},
    }
    stats = (await call("GET", "/api/audiences/all/stats")).json
    assert (stats["size"], stats["examined"], stats["engaged"], stats["days"]) == (3, 3, 2, 30)
    assert next(iter(stats["channels"])) == "email"
    # u2: as often on both, and later by mail
    assert stats["channels"]["email"]["mostEngaged"] == 2
    assert stats["channels"]["sms"] == {"contactable": 0, "engaged": 2, "mostEngaged": 0}
    assert (await call("GET", "/api/audiences/all/stats?days=90")).json["engaged"] == 3
