"""Recurring notifications over HTTP: stored and checked as they will be sent, paused, resumed, run, and explained."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.support.asgi_client import Client, StoppedClock
from tests.unit.api.conftest import _settings

from tidings.api.app import create_app
from tidings.channels.webhook import generate_secret
from tidings.container import AppContainer
from tidings.model.recurring import RecurringNotification

WEEKLY: dict[str, Any] = {
    "templateCode": "MESSAGE",
    "audience": {"kind": "users", "userIds": ["u1"]},
    "variables": {"title": "Your week", "body": "Nothing new"},
    "at": ["MON 09:00"],
    "timezone": "europe/zurich",
}
HOUR = timedelta(hours=1)


@pytest.fixture
async def signing(tmp_path: Path, database_template: Path) -> AsyncIterator[Client]:
    """A client of an application with a secret that signs requests for variables."""
    shutil.copy(database_template, tmp_path / "tidings.db")
    settings = _settings(tmp_path).with_channel_values({"TIDINGS_WEBHOOK__EVENTS_SECRET": generate_secret()})
    clock = StoppedClock()
    async with AppContainer.open(settings, clock=clock) as runtime:
        yield Client(create_app(runtime), runtime, clock)


async def put(call: Client, name: str = "weekly", **fields: object) -> Any:
    return await call("PUT", f"/api/recurring/{name}", json=WEEKLY | fields)


async def run_due(call: Client) -> None:
    while await call.runtime.recurring_runner.run_due():
        pass


async def test_c15_one_is_created_replaced_listed_and_deleted(call: Client) -> None:
    created = await put(call, description="What happened", options={"priority": "low"}, catchUpSeconds=3600)
    assert (created.status, created.headers["location"]) == (201, "/api/recurring/weekly")
    expected = WEEKLY | {"name": "weekly", "timezone": "Europe/Zurich", "options": {"priority": "low"}}
    assert expected.items() <= created.json.items()
    assert (created.json["nextRunAt"], created.json["catchUpSeconds"]) == ("2026-11-23T08:00:00Z", 3600)
    assert (created.json["isPaused"], created.json["variablesUrl"]) == (False, None)
    replaced = await put(call, at="LAST 18:30", timezone="user")
    assert (replaced.status, replaced.json["at"], replaced.json["timezone"]) == (200, ["LAST 18:30"], "user")
    # where the 30th begins first
    assert replaced.json["nextRunAt"] == "2026-11-30T04:30:00Z"
    assert (await put(call, "another")).status == 201
    first = (await call("GET", "/api/recurring?limit=1")).json
    assert [one["name"] for one in first["items"]] == ["another"]
    rest = (await call("GET", f"/api/recurring?cursor={first['nextCursor']}")).json
    assert ([one["name"] for one in rest["items"]], rest["nextCursor"]) == (["weekly"], None)
    assert (await call("GET", "/api/recurring/weekly")).json == replaced.json
    assert (await call("DELETE", "/api/recurring/weekly")).status == 204
    for method, path in (
        *(("GET", ""), ("DELETE", ""), ("GET", "/runs"), ("GET", "/runs/x")),
        *(("POST", "/run"), ("POST", "/pause"), ("POST", "/resume")),
    ):
        assert (await call(method, f"/api/recurring/weekly{path}")).status == 404, path
    assert (await call("GET", "/api/recurring/weekly")).json["code"] == "unknown_recurring"


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"templateCode": "MESAGE"}, "templateCode", "did you mean 'MESSAGE'?"),
        ({"audience": {"kind": "aliens"}}, "audience.kind", "no audience kind 'aliens'"),
        ({"audience": {"kind": "saved", "name": "vip"}}, "audience.name", "no saved audience 'vip'"),
        ({"audience": {"kind": "users", "userIds": ["u9"]}}, "userIds", "no such user"),
        ({"at": ["9:00"]}, "at[0]", "09:00"),
        ({"at": ["31 09:00"]}, "at[0]", "LAST 09:00"),
        ({"at": ["09:00\n"]}, "at[0]", "must be a time"),
        ({"at": []}, "at", ""),
        ({"timezone": "Mars/Olympus"}, "timezone", "IANA time-zone name such as Europe/Zurich, or user"),
        ({"variables": {"title": "Only"}}, "variables.body", "is missing"),
        ({"variables": {"title": 1, "body": []}}, "", ""),
        ({"options": {"channels": ["fax"]}}, "options.channels[0]", "unknown channel 'fax'"),
        ({"options": {"sendAt": "2026-12-01T00:00:00Z"}}, "options.sendAt", ""),
        ({"options": {"steps": [{"channels": ["fax"]}]}}, "options.steps[0].channels[0]", "unknown channel"),
        ({"catchUpSeconds": 119}, "catchUpSeconds", "120"),
        ({"variablesFunction": "week"}, "variablesFunction", "no function of variables 'week'"),
        ({"variablesUrl": "https://a.example", "variablesFunction": "week"}, "", "not both"),
        # without a secret nothing could sign
        ({"variablesUrl": "https://shop.example"}, "variablesUrl", "set TIDINGS_WEBHOOK__EVENTS_SECRET"),
    ],
)
async def test_c15_what_could_not_be_sent_is_refused_with_its_field(
    call: Client, fields: dict[str, Any], field: str, message: str
) -> None:
    reply = await put(call, **fields)
    assert reply.status == 422, reply.body
    if field:
        assert [error["field"] for error in reply.json["errors"]] == [field]
    assert message in reply.body.decode().replace('\\"', '"')
    assert (await call("GET", "/api/recurring/weekly")).status == 404


@pytest.mark.parametrize("size", ["levels", "parts"])
async def test_c15_an_audience_is_refused_that_no_run_of_some_zones_could_have(call: Client, size: str) -> None:
    part: dict[str, Any] = {"kind": "everyone"}
    if size == "parts":
        audience: dict[str, Any] = {"or": [part] * 198}
    else:
        audience = part
        for _ in range(11):
            audience = {"or": [audience]}
    assert (await put(call, audience=audience)).status == 201
    refused = await put(call, audience=audience, timezone="user")
    assert [error["field"] for error in refused.json["errors"]] == ["audience"]
    assert "at most 11 levels and 198 parts" in refused.json["errors"][0]["message"]
    smaller = audience["or"][0] if size == "levels" else {"or": [part] * 197}
    assert (await put(call, audience=smaller, timezone="user")).status == 200


async def test_c15_the_next_time_is_found_outside_of_a_transaction(
    call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite a transaction that is open would keep every other writer waiting."""
    runner, found = call.runtime.recurring_runner, []

    async def find_next_run(recurring: RecurringNotification, now: datetime) -> datetime:
        async with asyncio.timeout(5), call.runtime.store.transaction():
            found.append(recurring.name)
        return now + HOUR

    monkeypatch.setattr(runner, "find_next_run", find_next_run)
    await put(call)
    await call("POST", "/api/recurring/weekly/pause")
    resumed = await call("POST", "/api/recurring/weekly/resume")
    assert (resumed.json["nextRunAt"], found) == ("2026-11-22T13:00:00Z", ["weekly", "weekly"])


@pytest.mark.parametrize("name", ["-x", "a" * 65, "ä"])
async def test_c15_a_name_is_one_segment_of_a_path(call: Client, name: str) -> None:
    assert [error["field"] for error in (await put(call, name)).json["errors"]] == ["name"]


@pytest.mark.parametrize("url", ["http://shop.example/x", "https://user:pw@shop.example", "file:///etc/passwd"])
async def test_c15_an_endpoint_is_checked_as_other_endpoints_are(signing: Client, url: str) -> None:
    reply = await put(signing, variablesUrl=url)
    [error] = reply.json["errors"]
    assert error["field"] == "variablesUrl"
    assert ("unless TIDINGS_WEBHOOK__TRUSTED_HOSTS names its host: shop.example" in error["message"]) == (
        url.startswith("http:")
    )
    # variables that it may return need not be stored
    assert (await put(signing, variablesUrl="https://shop.example/week", variables={})).status == 201
    assert (await put(signing, variablesUrl="https://shop.example/week", templateCode="NONE")).status == 422


async def test_c15_a_private_address_is_not_asked_for_variables(signing: Client) -> None:
    assert (await put(signing, variablesUrl="https://127.0.0.1:9/week")).status == 201
    signing.clock.time += 24 * HOUR
    await run_due(signing)
    [run] = (await signing("GET", "/api/recurring/weekly/runs")).json["items"]
    assert (run["state"], run["attempts"], run["reason"]) == ("pending", 1, "127.0.0.1 has no public address")


async def test_c15_a_due_run_is_in_the_history_with_its_notification(call: Client) -> None:
    await put(call)
    call.clock.time += 24 * HOUR
    await run_due(call)
    [run] = (await call("GET", "/api/recurring/weekly/runs")).json["items"]
    assert (run["state"], run["scheduledAt"], run["isManual"]) == ("accepted", "2026-11-23T08:00:00Z", False)
    assert (run["nextAttemptAt"], run["finishedAt"]) == (None, "2026-11-23T12:00:00Z")
    assert (await call("GET", f"/api/recurring/weekly/runs/{run['id']}")).json == run
    found = (await call("GET", f"/api/notifications/{run['notificationId']}")).json
    assert (found["source"], found["variables"]) == ("recurring:weekly", WEEKLY["variables"])
    explained = (await call("GET", f"/api/explain?userId=u1&notificationId={run['notificationId']}")).json
    assert explained["source"] == "recurring:weekly"
    assert (await call("GET", "/api/recurring/weekly")).json["nextRunAt"] == "2026-11-30T08:00:00Z"
    assert b'tidings_recurring_runs_total{state="accepted"}' in (await call("GET", "/metrics")).body


async def test_c15_a_run_that_a_caller_starts_is_made_once_per_key(call: Client) -> None:
    await put(call)
    started = await call("POST", "/api/recurring/weekly/run", headers={"Idempotency-Key": "k1"})
    assert started.status == 202
    run_id = started.json["id"]
    assert started.headers["location"] == f"/api/recurring/weekly/runs/{run_id}"
    repeated = await call("POST", "/api/recurring/weekly/run", headers={"Idempotency-Key": "k1"})
    assert (repeated.json, repeated.headers["idempotency-replayed"]) == (started.json, "true")
    await run_due(call)
    [run] = (await call("GET", "/api/recurring/weekly/runs")).json["items"]
    assert (run["id"], run["state"], run["isManual"]) == (run_id, "accepted", True)
    # the regular time stays
    assert (await call("GET", "/api/recurring/weekly")).json["nextRunAt"] == "2026-11-23T08:00:00Z"


async def test_c15_a_run_that_was_not_made_is_repeated_once(call: Client) -> None:
    await put(call, catchUpSeconds=120)
    call.clock.time += 24 * HOUR
    await run_due(call)
    [missed] = (await call("GET", "/api/recurring/weekly/runs")).json["items"]
    path = f"/api/recurring/weekly/runs/{missed['id']}/repeat"
    assert (missed["state"], missed["reason"]) == ("missed", "no worker ran within its catch-up")
    repeated = await call("POST", path)
    assert (repeated.status, repeated.json["state"], repeated.json["reason"]) == (200, "pending", None)
    assert (repeated.json["id"], repeated.json["scheduledAt"]) == (missed["id"], missed["scheduledAt"])
    again = await call("POST", path)
    assert (again.status, again.json["code"]) == (409, "conflict")
    await run_due(call)
    [run] = (await call("GET", "/api/recurring/weekly/runs")).json["items"]
    assert (run["state"], run["attempts"], run["deadline"]) == ("accepted", 1, "2026-11-23T12:02:00Z")
    assert (await call("POST", path)).status == 409
    assert (await call("POST", path.replace("/weekly/", "/other/"))).status == 404


async def test_c15_a_paused_one_is_not_due_and_makes_up_for_nothing(call: Client) -> None:
    await put(call)
    await call("POST", "/api/recurring/weekly/run")
    before = REGISTRY.get_sample_value("tidings_recurring_runs_total", {"state": "cancelled"}) or 0
    paused = await call("POST", "/api/recurring/weekly/pause")
    assert (paused.status, paused.json["isPaused"], paused.json["nextRunAt"]) == (200, True, None)
    [run] = (await call("GET", "/api/recurring/weekly/runs")).json["items"]
    assert (run["state"], run["reason"]) == ("cancelled", "it was paused")
    assert REGISTRY.get_sample_value("tidings_recurring_runs_total", {"state": "cancelled"}) == before + 1
    assert (await put(call, at=["TUE 09:00"])).json["nextRunAt"] is None
    call.clock.time += 7 * 24 * HOUR
    await run_due(call)
    resumed = (await call("POST", "/api/recurring/weekly/resume")).json
    assert (resumed["isPaused"], resumed["nextRunAt"]) == (False, "2026-12-01T08:00:00Z")
    assert (await call("POST", "/api/recurring/weekly/resume")).json == resumed
    await run_due(call)
    assert len((await call("GET", "/api/recurring/weekly/runs")).json["items"]) == 1


async def test_c15_a_change_of_the_content_keeps_an_overdue_run(call: Client) -> None:
    await put(call)
    call.clock.time += 24 * HOUR
    assert (await put(call, variables=WEEKLY["variables"] | {"body": "New"})).json["nextRunAt"] == (
        "2026-11-23T08:00:00Z"
    )
    await run_due(call)
    [accepted] = (await call("GET", "/api/notifications")).json["items"]
    assert accepted["variables"]["body"] == "New"
    call.clock.time += 7 * 24 * HOUR
    # other times count from the change on
    assert (await put(call, at=["MON 09:00", "15 09:00"])).json["nextRunAt"] == "2026-12-07T08:00:00Z"


async def test_c15_an_erased_user_is_removed_from_audiences(call: Client) -> None:
    await put(call, audience={"kind": "users", "userIds": ["u1", "u2"]})
    assert (await call("GET", "/api/users/u1")).json["recurringNotifications"] == ["weekly"]
    assert (await call("DELETE", "/api/users/u1")).status == 204
    assert (await call("GET", "/api/recurring/weekly")).json["audience"] == {"kind": "users", "userIds": ["u2"]}
