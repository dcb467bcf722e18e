"""The main scenario: an event changes, and the devices of the right users show it once, in their language."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.support.server import TidingsServer

from tidings.mockpush import MockPushClient, SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]

#: user id → locale, time zone, number of devices, whether the user holds a ticket
USERS = {
    "ana": ("de-CH", "Europe/Zurich", 2, True),
    "bob": ("en-US", "America/New_York", 2, True),
    "cleo": ("fr", "Europe/Paris", 1, True),
    # turned off time changes
    "vic": ("en", "UTC", 1, True),
    # returned the ticket
    "rita": ("en", "UTC", 1, True),
    # never held a ticket
    "otto": ("en", "UTC", 1, False),
    # holds a ticket, has no device
    "nora": ("en", "UTC", 0, True),
}
EVENT = {
    "title": "Night of Strings",
    "startDate": "2030-06-21T19:00:00+02:00",
    "endDate": "2030-06-21T22:00:00+02:00",
    "venue": "Tonhalle",
    "city": "Zurich",
}


@dataclass(frozen=True)
class Story:
    """The results of the scenario, shared by the tests."""

    event: str
    announced: str
    changed: str
    #: device → payloads received about the change, in order
    shown: Mapping[str, list[Json]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(server: TidingsServer, push: SpawnedMockPush) -> AsyncIterator[Story]:
    await _sign_up(server, push.control)
    event = (await server.expect(201, "POST", "/api/events", EVENT)).read(Json)["id"]
    for name, (_, _, _, holds) in USERS.items():
        if holds:
            await server.expect(201, "POST", f"/api/events/{event}/tickets", {"userId": name})
    published = (await server.expect(200, "POST", f"/api/events/{event}/publish")).read(Json)
    announced = published["notification"]["id"]
    assert published["notification"]["status"] == "accepted"
    await server.wait_until_finished(announced)
    await server.expect(204, "DELETE", f"/api/events/{event}/tickets", {"userId": "rita"})
    before = (await push.control.stats()).accepted
    moved = {"startDate": "2030-06-21T20:30:00+02:00", "endDate": "2030-06-21T23:30:00+02:00"}
    patched = (await server.expect(200, "PATCH", f"/api/events/{event}", moved)).read(Json)
    assert patched["change"]["type"] == "time_change"
    changed = patched["notification"]["id"]
    await server.wait_until_finished(changed)
    shown: dict[str, list[Json]] = {}
    for message in await push.control.messages(after=before):
        assert message.payload is not None, message.problem
        shown.setdefault(message.device, []).append(dict(message.payload))
    yield Story(event, announced, changed, shown)


async def _sign_up(server: TidingsServer, push: MockPushClient) -> None:
    lines = b"".join(
        msgspec.json.encode({"id": name, "locale": locale, "timezone": zone, "city": "Zurich"}) + b"\n"
        for name, (locale, zone, _, _) in USERS.items()
    )
    answer = await server.expect(
        200, "POST", "/api/users/bulk", lines, headers={"content-type": "application/x-ndjson"}
    )
    assert [line["status"] for line in answer.lines(Json)] == ["created"] * len(USERS)
    key = (await server.expect(200, "GET", "/api/push/public-key", token=None)).read(Json)["publicKey"]
    for name, device in _devices():
        token = (await server.expect(200, "POST", f"/api/users/{name}/token")).read(Json)["token"]
        # from now on the service rejects messages signed with another key
        await push.bind(device, key)
        wanted = {**(await push.subscription(device)), "device": device}
        await server.expect(201, "POST", "/api/push/subscribe", wanted, token=token)
        await server.expect(200, "POST", "/api/push/subscribe", wanted, token=token)
    choice = {"preferences": [{"category": "EVENT_TIME_CHANGE", "channel": "webpush", "enabled": False}]}
    await server.expect(200, "PUT", "/api/users/me/preferences", choice, token=server.user_token("vic"))


def _devices() -> Iterator[tuple[str, str]]:
    for name, (_, _, devices, _) in USERS.items():
        for number in range(1, devices + 1):
            yield name, f"{name}-{number}"


async def explained(server: TidingsServer, user: str, notification: str) -> Json:
    answer = await server.expect(200, "GET", f"/api/explain?userId={user}&notificationId={notification}")
    return answer.read(Json)


async def explained_by_cli(server: TidingsServer, user: str, notification: str) -> Json:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings.cli", "explain", "--json", "--user", user, "--notification", notification),
        env=server.environment,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    explanation: Json = json.loads(output)
    return explanation


async def test_every_device_of_a_ticket_holder_gets_exactly_one_message(story: Story) -> None:
    assert {device: len(payloads) for device, payloads in story.shown.items()} == {
        "ana-1": 1,
        "ana-2": 1,
        "bob-1": 1,
        "bob-2": 1,
        "cleo-1": 1,
    }


@pytest.mark.parametrize(
    ("device", "language", "title", "body"),
    [
        (
            "ana-2",
            "de",
            "Night of Strings: neue Zeit",
            "Beginn: Fr., 21. Juni 2030, 19:00 → 20:30\nEnde: Fr., 21. Juni 2030, 22:00 → 23:30",
        ),
        (
            "bob-1",
            "en",
            "Night of Strings: new time",
            "Start: Fri, Jun 21, 2030, 1:00 PM → 2:30 PM\nEnd: Fri, Jun 21, 2030, 4:00 PM → 5:30 PM",
        ),
        (
            "cleo-1",
            "fr",
            "Night of Strings : nouvel horaire",
            "Début : ven. 21 juin 2030, 19:00 → 20:30\nFin : ven. 21 juin 2030, 22:00 → 23:30",
        ),
    ],
)
async def test_the_message_is_in_the_recipients_language_and_time_zone(
    story: Story, device: str, language: str, title: str, body: str
) -> None:
    (payload,) = story.shown[device]
    notification = payload["notification"]
    # the kind of white space depends on the language's typography
    shown = [text.replace("\u00a0", " ") for text in (notification["title"], notification["body"])]
    assert shown == [title, body]
    assert notification["lang"] == language
    assert notification["navigate"].endswith(f"/events/{story.event}")
    assert notification["tag"] == f"event:{story.event}"


async def test_the_announcement_reached_the_whole_city(server: TidingsServer, story: Story) -> None:
    progress = await server.get_progress(story.announced)
    assert progress.recipients == len(USERS)
    assert progress.by_state == {"delivered": len(list(_devices()))}
    assert progress.skipped == 1


async def test_counts_add_up(server: TidingsServer, story: Story) -> None:
    progress = await server.get_progress(story.changed)
    # rita and otto are outside the audience; vic and nora are in it and are skipped
    assert (progress.recipients, progress.deliveries, progress.skipped) == (5, 5, 2)
    assert progress.by_state == {"delivered": 5}
    trace = (await server.expect(200, "GET", f"/api/notifications/{story.changed}/trace")).read(Json)
    assert Counter(one["userId"] for one in trace["deliveries"]) == {"ana": 2, "bob": 2, "cleo": 1}
    assert {one["userId"]: one["reason"] for one in trace["skips"]} == {"vic": "preference_off", "nora": "no_device"}


@pytest.mark.parametrize("explain", [explained, explained_by_cli])
async def test_explain_says_why_a_user_received_it_on_two_devices(
    server: TidingsServer, story: Story, explain: Any
) -> None:
    explanation = await explain(server, "ana", story.changed)
    assert explanation["verdict"] == "delivered"
    words = "\n".join(explanation["sentences"])
    assert "received it on 2 devices" in words
    assert "ana-1" in words
    assert "ana-2" in words


@pytest.mark.parametrize("explain", [explained, explained_by_cli])
async def test_explain_says_why_a_user_who_turned_it_off_received_nothing(
    server: TidingsServer, story: Story, explain: Any
) -> None:
    explanation = await explain(server, "vic", story.changed)
    assert explanation["verdict"] == "skipped"
    assert explanation["deliveries"] == []
    assert "vic turned off EVENT_TIME_CHANGE on webpush" in "\n".join(explanation["sentences"])


async def test_explain_says_why_a_user_with_a_returned_ticket_received_nothing(
    server: TidingsServer, story: Story
) -> None:
    explanation = await explained(server, "rita", story.changed)
    assert explanation["verdict"] == "not_in_audience"
    assert (explanation["deliveries"], explanation["skips"]) == ([], [])


async def test_endpoints_are_never_shown(server: TidingsServer, story: Story, push: SpawnedMockPush) -> None:
    for path in (
        f"/api/notifications/{story.changed}/trace",
        f"/api/explain?userId=ana&notificationId={story.changed}",
        "/api/users/ana",
    ):
        body = (await server.expect(200, "GET", path)).body
        assert b"ana-1" in body
        assert b"/push/" not in body
    assert "/push/" not in server.log.read_text()
