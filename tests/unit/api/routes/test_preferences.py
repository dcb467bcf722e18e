"""Preferences over the API: effective values, entries, and changes at the same time."""

import asyncio
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from tidings.api.schemas.preferences import build_overview
from tidings.model.consent import evaluate_consent
from tidings.model.preference import Preference
from tidings.model.template import Category

PATH = "/api/users/me/preferences"
MAIL_OFF = {"category": "NEW_EVENT", "channel": "email", "enabled": False}
PUSH_OFF = {"category": "EVENT_TIME_CHANGE", "channel": "webpush", "enabled": False}


@pytest.mark.parametrize(
    ("mandatory", "opt_in", "choice"), list(product([True, False], [True, False], [True, False, None]))
)
def test_the_overview_shows_the_rule_that_planning_applies(mandatory: bool, opt_in: bool, choice: bool | None) -> None:
    category = Category("NEWS", "News", mandatory=mandatory, opt_in=opt_in)
    preferences = [] if choice is None else [Preference("NEWS", "webpush", choice)]
    (shown,) = build_overview(_catalog(category), preferences).categories  # type: ignore[arg-type]  # only these of the catalog are read
    decision = evaluate_consent(category, "webpush", preferences)
    assert shown.channels["webpush"] is decision.is_granted
    assert shown.decided_by["webpush"] == decision.deciding.source


def test_c19_mandatory_channels_are_shown_as_locked() -> None:
    category = Category("NEWS", "News", mandatory=("email",))
    off = [Preference("NEWS", "", False)]
    (shown,) = build_overview(_catalog(category), off).categories  # type: ignore[arg-type]  # only these of the catalog are read
    assert (shown.mandatory, shown.mandatory_channels) == (False, ["email"])
    assert shown.channels == {"webpush": False, "email": True}
    (all_channels,) = build_overview(_catalog(Category("NEWS", "News", mandatory=True)), off).categories  # type: ignore[arg-type]  # only these of the catalog are read
    assert (all_channels.mandatory, all_channels.mandatory_channels) == (True, ["webpush", "email"])


def _catalog(category: Category) -> SimpleNamespace:
    return SimpleNamespace(categories={category.code: category}, channels=("webpush", "email"), preference_defaults=())


async def put(call: Any, *entries: dict[str, object], **headers: str) -> Any:
    return await call("PUT", PATH, json={"preferences": list(entries)}, user="u1", headers=headers)


async def patch(call: Any, *entries: dict[str, object], **headers: str) -> Any:
    return await call("PATCH", PATH, json={"preferences": list(entries)}, user="u1", headers=headers)


def keys(reply: Any) -> list[tuple[object, ...]]:
    assert reply.status == 200, reply.body
    return [(one["category"], one["channel"], one["object"], one["enabled"]) for one in reply.json["preferences"]]


async def test_c22_put_replaces_and_patch_merges(call: Any) -> None:
    await put(call, MAIL_OFF, PUSH_OFF)
    assert keys(await put(call, PUSH_OFF)) == [("EVENT_TIME_CHANGE", "webpush", None, False)]
    merged = await patch(call, MAIL_OFF, {"object": "event:9", "enabled": False})
    assert keys(merged) == [
        (None, None, "event:9", False),
        ("EVENT_TIME_CHANGE", "webpush", None, False),
        ("NEW_EVENT", "email", None, False),
    ]
    assert (await call("GET", PATH, user="u1")).json == merged.json
    removed = await patch(call, {"object": "event:9", "enabled": None}, MAIL_OFF | {"enabled": True})
    assert keys(removed)[1:] == [("NEW_EVENT", "email", None, True)]
    assert keys(await put(call)) == []


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_the_list_may_be_called_entries(call: Any, method: str) -> None:
    reply = await call(method, PATH, json={"entries": [MAIL_OFF]}, user="u1")
    assert keys(reply) == [("NEW_EVENT", "email", None, False)]
    both = await call(method, PATH, json={"entries": [MAIL_OFF], "preferences": [MAIL_OFF]}, user="u1")
    assert both.status == 422


async def test_c22_two_tabs_lose_nothing(call: Any) -> None:
    changes = [{"object": f"event:{number}", "enabled": False} for number in range(10)]
    await asyncio.gather(*(patch(call, change) for change in changes))
    assert len(keys(await call("GET", PATH, user="u1"))) == 10


async def test_c22_a_change_of_what_another_tab_changed_is_refused(call: Any) -> None:
    seen = (await call("GET", PATH, user="u1")).headers["etag"]
    first = await put(call, MAIL_OFF, **{"If-Match": seen})
    assert first.status == 200
    for stale in (await put(call, PUSH_OFF, **{"If-Match": seen}), await patch(call, PUSH_OFF, **{"If-Match": seen})):
        assert (stale.status, stale.json["code"]) == (412, "precondition_failed")
    assert first.headers["etag"] == (await call("GET", PATH, user="u1")).headers["etag"] != seen
    assert len(keys(await patch(call, PUSH_OFF, **{"If-Match": first.headers["etag"]}))) == 2
    assert keys(await put(call, **{"If-Match": "*"})) == []


async def test_a_change_is_accepted_if_one_of_several_tags_is_current(call: Any) -> None:
    seen = (await call("GET", PATH, user="u1")).headers["etag"]
    for tags in (f'"other", {seen}', f'W/{seen},"other"', f'"x" ,"y", "z" , {seen}'):
        assert (await put(call, **{"If-Match": tags})).status == 200, tags
    assert (await put(call, **{"If-Match": '"other", "another"'})).status == 412


async def test_c20_yes_and_no_are_both_stored(call: Any) -> None:
    shown = await put(call, MAIL_OFF | {"enabled": True}, PUSH_OFF)
    assert [one["enabled"] for one in shown.json["preferences"]] == [False, True]


async def test_c21_a_choice_for_a_channel_holds_for_every_category(call: Any) -> None:
    reply = await put(call, {"channel": "webpush", "enabled": False})
    for category in reply.json["categories"]:
        assert category["channels"]["webpush"] is category["mandatory"]
        assert category["decidedBy"]["webpush"] == ("mandatory" if category["mandatory"] else "user")


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"category": "NOPE", "enabled": False}, "preferences[0].category"),
        ({"channel": "pigeon", "enabled": False}, "preferences[0].channel"),
        ({"category": "EVENT_CANCELLATION", "enabled": False}, "preferences[0].enabled"),
        ({"object": " ", "enabled": False}, "preferences[0].object"),
        (
            {"enabled": False, "condition": {"variable": "amount", "operator": "gt", "value": 5}},
            "preferences[0].condition",
        ),
        (
            {"enabled": True, "condition": {"variable": "amount", "operator": "gte", "value": 10**20}},
            "preferences[0].condition.value",
        ),
        (
            {"enabled": True, "condition": {"variable": "amount", "operator": "above", "value": 5}},
            "preferences[0].condition.operator",
        ),
    ],
)
async def test_a_wrong_entry_is_refused_and_named(call: Any, entry: dict[str, object], field: str) -> None:
    for reply in (await put(call, entry), await patch(call, entry)):
        # a value that is neither number nor text has an error for each
        assert (reply.status, {error["field"] for error in reply.json["errors"]}) == (422, {field})


async def test_c24_an_entry_keeps_its_condition(call: Any) -> None:
    condition = {"variable": "amount", "operator": "gte", "value": 5}
    stored = await patch(call, {"category": "NEW_EVENT", "enabled": True, "condition": condition})
    assert [one["condition"] for one in stored.json["preferences"]] == [condition]
    export = (await call("GET", "/api/users/u1")).json
    assert export["preferences"] == stored.json["preferences"]
    replaced = await patch(call, {"category": "NEW_EVENT", "enabled": True})
    assert [one["condition"] for one in replaced.json["preferences"]] == [None]


async def test_a_user_has_at_most_a_thousand_entries(call: Any) -> None:
    many = [{"object": f"event:{number}", "enabled": False} for number in range(1000)]
    assert len(keys(await put(call, *many))) == 1000
    refused = await patch(call, MAIL_OFF)
    assert (refused.status, refused.json["errors"][0]["field"]) == (422, "preferences")
    assert len(keys(await patch(call, MAIL_OFF, many[0] | {"enabled": None}))) == 1000
