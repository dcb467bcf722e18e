"""Steps, digests and quiet hours together, on both ways of running.

In-app at once, a push if it was not seen, and what ends the wait. Ten updates become one push.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation
from tests.support.server import eventually

from tidings.mockpush import SpawnedMockPush
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["serve", "fleet"])
async def site(
    request: pytest.FixtureRequest,
    push: SpawnedMockPush,
    postgres: PostgresServer,
    valkey: ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Installation]:
    """One process on SQLite, or an API process and a worker on PostgreSQL and Valkey."""
    await push.control.reset()
    folder = tmp_path_factory.mktemp("steps") / "data"
    settings = {
        "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
        "TIDINGS_INAPP__ENABLED": "true",
        "TIDINGS_USER_LIMIT": "0",
    }
    async with AsyncExitStack() as stack:
        if request.param == "serve":
            server = await stack.enter_async_context(ServerProcess("serve", folder, settings=settings))
            yield Installation(server, [server], push)
            return
        valkey.flush()
        settings |= {"TIDINGS_DATABASE": postgres.create_database(), "TIDINGS_REDIS": valkey.url}
        api = await stack.enter_async_context(ServerProcess("api", folder, settings=settings))
        worker = await stack.enter_async_context(ServerProcess("worker", folder, settings=settings))
        yield Installation(api, [worker], push, (postgres, valkey))


def escalate(after: int, unless: object = "seen") -> list[Json]:
    return [{"channels": ["inapp"]}, {"channels": ["webpush"], "afterSeconds": after, "unless": unless}]


async def get_steps(site: Installation, user: str, notification: str) -> Json:
    """Return the explanation of a notification that is in the user's feed."""
    path = f"/api/explain?userId={user}&notificationId={notification}"
    return (await site.api.expect(200, "GET", path)).read(Json)


async def wait_for_item(site: Installation, user: str, notification: str) -> str:
    """Return the id of the item in the user's feed."""

    async def find() -> str | None:
        feed = (await site.api.expect(200, "GET", "/api/inbox", token=site.api.user_token(user))).read(Json)
        return next((one["id"] for one in feed["items"] if one["notificationId"] == notification), None)

    return str(await eventually(find, within=60))


async def test_a_message_that_is_not_seen_goes_to_the_next_channel(site: Installation) -> None:
    await site.register_users("ana")
    notification = await site.send_message("ana", steps=escalate(1))
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 2}
    received = await site.push_service.control.messages()
    assert [message.device for message in received].count("ana") == 1
    explained = await get_steps(site, "ana", notification)
    [step] = explained["steps"]
    assert (step["state"], step["cause"], step["channels"]) == ("started", "handed_over", ["webpush"])
    assert any("Step 1, counted from 0 (webpush), started at" in sentence for sentence in explained["sentences"])


async def test_c38_a_message_that_is_seen_in_time_goes_no_further(site: Installation) -> None:
    await site.register_users("ben")
    notification = await site.send_message("ben", steps=escalate(600))
    item = await wait_for_item(site, "ben", notification)
    progress = (await site.api.expect(200, "GET", f"/api/notifications/{notification}")).read(Json)
    assert (progress["waitingSteps"], progress["finished"]) == (1, False)
    await site.api.expect(200, "POST", f"/api/inbox/{item}/seen", token=site.api.user_token("ben"))
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 1}
    explained = await get_steps(site, "ben", notification)
    [step] = explained["steps"]
    assert (step["state"], step["endedBy"], step["startedAt"]) == ("cancelled", "seen", None)
    assert any("the user saw the message" in sentence for sentence in explained["sentences"])
    traced = (await site.api.expect(200, "GET", f"/api/notifications/{notification}/trace")).read(Json)
    assert traced["steps"] == explained["steps"]


async def test_c39_a_domain_event_ends_the_wait(site: Installation) -> None:
    await site.register_users("cem")
    notification = await site.send_message("cem", steps=escalate(600, {"event": "invoice.paid"}), subject="invoice:7")
    await wait_for_item(site, "cem", notification)
    event = {
        "specversion": "1.0",
        "id": notification,
        "source": "/billing",
        "type": "invoice.paid",
        "subject": "invoice:7",
    }
    caused = (await site.api.expect(202, "POST", "/api/domain-events", event)).read(Json)
    assert caused["cancelledSteps"] == 1
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 1}
    [step] = (await get_steps(site, "cem", notification))["steps"]
    assert (step["state"], step["endedBy"]) == ("cancelled", "event")


async def test_c39_a_domain_event_before_the_planning_ends_the_wait(site: Installation) -> None:
    await site.register_users("dan")
    notification = await site.send_message("dan", steps=escalate(600, {"event": "invoice.paid"}), delay=1_500)
    event = {"specversion": "1.0", "id": notification, "source": "/billing", "type": "invoice.paid"}
    caused = (await site.api.expect(202, "POST", "/api/domain-events", event | {"data": {"userId": "dan"}})).read(Json)
    assert caused["cancelledSteps"] == 0, "nothing is planned yet"
    assert (await site.api.wait_until_finished(notification)).by_state == {"delivered": 1}
    [step] = (await get_steps(site, "dan", notification))["steps"]
    assert (step["state"], step["endedBy"]) == ("cancelled", "event")


async def test_a_cancelled_notification_starts_no_later_step(site: Installation) -> None:
    await site.register_users("eli")
    notification = await site.send_message("eli", steps=escalate(600))
    await wait_for_item(site, "eli", notification)
    await site.api.expect(200, "DELETE", f"/api/notifications/{notification}")
    progress = (await site.api.expect(200, "GET", f"/api/notifications/{notification}")).read(Json)
    assert (progress["status"], progress["waitingSteps"]) == ("cancelled", 0)


async def test_wrong_steps_are_refused_with_the_path_of_the_field(site: Installation) -> None:
    await site.register_users("ana")
    steps = [
        {"channels": ["inapp"], "afterSeconds": 5, "unless": "seen"},
        {"channels": ["inapp", "telegraph"]},
    ]
    body = {"userId": "ana", "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
    refused = await site.api.expect(422, "POST", "/api/notifications", {**body, "options": {"steps": steps}})
    fields = {one["field"] for one in refused.read(Json)["errors"]}
    assert fields == {
        "options.steps[0].afterSeconds",
        "options.steps[0].unless",
        "options.steps[1].channels[0]",
        "options.steps[1].channels[1]",
    }


async def test_the_export_of_a_user_has_the_later_steps(site: Installation) -> None:
    await site.register_users("fay")
    notification = await site.send_message("fay", steps=escalate(600))
    await wait_for_item(site, "fay", notification)
    exported = (await site.api.expect(200, "GET", "/api/users/fay")).read(Json)
    assert [(one["notificationId"], one["state"]) for one in exported["steps"]] == [(notification, "waiting")]
    await site.api.expect(204, "DELETE", "/api/users/fay")
    rows = await site.query(f"SELECT count(*) FROM waiting_steps WHERE notification_id = '{notification}'")  # an id
    assert rows == [(0,)]


async def test_m19_ten_concurrent_updates_become_one_push(site: Installation) -> None:
    await site.register_users("gus")

    async def update(number: int) -> str:
        body = {
            "userId": "gus",
            "templateCode": "MESSAGE",
            "variables": {"title": f"Update {number}", "body": "Changed", "eventId": "e-1"},
            "options": {
                "channels": ["webpush"],
                "digest": {"key": "eventId", "windowSeconds": 600, "maxItems": 10},
            },
        }
        return str((await site.api.expect(202, "POST", "/api/notifications", body)).read(Json)["id"])

    triggers = await asyncio.gather(*(update(number) for number in range(10)))
    for trigger in triggers:
        progress = await site.api.wait_until_finished(trigger)
        assert (progress.deliveries, progress.skipped) == (0, 0)
    traced = [await _trace(site, trigger) for trigger in triggers]
    places = {(item["state"], item["notificationId"]) for one in traced for item in one["collected"]}
    [(state, digest)] = places
    assert (state, [len(one["collected"]) for one in traced]) == ("digested", [1] * 10)
    assert (await site.api.wait_until_finished(digest)).by_state == {"delivered": 1}
    [message] = await site.push_service.control.messages(device="gus")
    assert message.payload is not None
    notification: Any = message.payload["notification"]
    in_order = sorted(range(10), key=lambda number: triggers[number])
    assert notification["title"] == "10 updates"
    assert notification["body"].splitlines() == [f"Update {number}: Changed" for number in in_order]


async def test_c38_a_step_that_quiet_hours_hold_is_not_sent_after_it_was_seen(site: Installation) -> None:
    await site.register_users("hal")
    token = site.api.user_token("hal")
    start, end = (f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M}" for hours in (-2, 2))
    quiet = {"timezone": "UTC", "quietHours": [{"start": start, "end": end}]}
    await site.api.expect(200, "PUT", "/api/users/me/schedule", quiet, token=token)
    held = await site.send_message("hal", channels=["webpush"])
    escalated = await site.send_message("hal", steps=escalate(1))
    item = await wait_for_item(site, "hal", escalated)

    async def is_held(notification: str) -> bool:
        path = f"/api/notifications/{notification}/deliveries"
        found = (await site.api.expect(200, "GET", path)).read(Json)["items"]
        return any(
            (one["channel"], one["state"], one["heldBy"]) == ("webpush", "pending", "quiet_hours") for one in found
        )

    for notification in (held, escalated):
        await eventually(partial(is_held, notification), within=60, pause=0.1)
    await site.api.expect(200, "POST", f"/api/inbox/{item}/seen", token=token)
    await site.api.expect(200, "PUT", "/api/users/me/schedule", {"quietHours": []}, token=token)
    assert (await site.api.wait_until_finished(held)).by_state == {"delivered": 1}
    assert (await site.api.wait_until_finished(escalated)).by_state == {"delivered": 1, "skipped": 1}
    assert len(await site.push_service.control.messages(device="hal")) == 1


async def _trace(site: Installation, notification: str) -> Json:
    return (await site.api.expect(200, "GET", f"/api/notifications/{notification}/trace")).read(Json)
