"""News of an event: nothing outdated leaves, and whoever was told of the event hears that it is cancelled."""

import asyncio
import secrets
from typing import Any

import pytest
from tests.support.installation import Installation
from tests.support.server import eventually

from tidings.mockpush import ResponseRule
from tidings.mockpush.control import ReceivedMessage

pytestmark = pytest.mark.asyncio(loop_scope="session")

Json = dict[str, Any]
START, LATER = "2030-06-21T19:00:00Z", "2030-06-21T20:00:00Z"
USERS = [f"news-{number:02}" for number in range(8)]
#: these devices answer 503 until the rules are removed
SLOW = USERS[4:]


def create_name(word: str) -> str:
    """Return a name that no other run on the same installation uses."""
    return f"{word} {secrets.token_hex(3)}"


async def create_event(site: Installation, city: str, *holders: str, status: str = "DRAFT") -> str:
    for name in USERS:
        await site.register_users(name)
        await site.api.expect(200, "PUT", f"/api/users/{name}", {"city": city})
    wanted = {"title": city, "startDate": START, "city": city, "status": status}
    event: str = (await site.api.expect(201, "POST", "/api/events", wanted)).read(Json)["id"]
    for name in holders:
        await site.api.expect(201, "POST", f"/api/events/{event}/tickets", {"userId": name})
    return event


async def hold_back_slow_devices(site: Installation, retry_after: int = 1) -> None:
    rules = (ResponseRule(status=503, retry_after=retry_after, device=name) for name in SLOW)
    await site.push_service.control.set_rules(*rules)


async def wait_for_refusals(site: Installation, notification: str) -> None:
    """Wait until each slow device has refused, so that no send is in flight before the retries."""

    async def is_refused(name: str) -> bool:
        path = f"/api/explain?userId={name}&notificationId={notification}"
        deliveries = (await site.api.expect(200, "GET", path)).read(Json)["deliveries"]
        return bool(deliveries) and all(one["state"] == "pending" and one["attempts"] for one in deliveries)

    async def all_refused() -> bool:
        return all([await is_refused(name) for name in SLOW])

    await eventually(all_refused)


async def release_slow_devices(site: Installation, superseded: str) -> None:
    """Remove the rules when nothing of a superseded notification can be sent any more."""

    async def is_withdrawn() -> bool:
        return set((await site.api.get_progress(superseded)).by_state) <= {"delivered", "skipped", "cancelled"}

    await eventually(is_withdrawn)
    await site.push_service.control.set_rules()


async def post(site: Installation, path: str) -> Json:
    return (await site.api.expect(200, "POST", path)).read(Json)


async def wait_for_states(site: Installation, notification: str, by_state: dict[str, int]) -> None:
    async def reached() -> bool:
        return (await site.api.get_progress(notification)).by_state == by_state

    await eventually(reached)


async def read_titles(site: Installation, city: str) -> dict[str, list[str]]:
    """Return user → titles of the messages about an event, in the order in which the push service accepted them."""
    received = {name: await site.push_service.control.messages(device=name) for name in USERS}
    titles = {name: [_shown(message)["title"] for message in messages] for name, messages in received.items()}
    return {name: [title for title in found if city in title] for name, found in titles.items()}


def _shown(message: ReceivedMessage) -> Json:
    assert message.payload is not None, message.problem
    shown = message.payload["notification"]
    assert isinstance(shown, dict)
    return shown


async def find_notification(site: Installation, event: str, template: str, audience: str) -> str | None:
    items = (await site.api.expect(200, "GET", f"/api/notifications?templateCode={template}&limit=500")).read(Json)
    for item in items["items"]:
        if event in str(item["source"]) and audience in str(item["audience"]):
            return str(item["id"])
    return None


async def test_whoever_was_invited_hears_of_the_cancellation_and_nobody_is_invited_after_it(
    site: Installation,
) -> None:
    city = create_name("Ins")
    event = await create_event(site, city)
    await hold_back_slow_devices(site)
    announced = (await post(site, f"/api/events/{event}/publish"))["notification"]["id"]
    await wait_for_states(site, announced, {"delivered": 4, "pending": 4})
    await post(site, f"/api/events/{event}/cancel")
    await release_slow_devices(site, announced)
    await wait_for_states(site, announced, {"delivered": 4, "skipped": 4})
    told = await find_notification(site, event, "EVENT_CANCELLATION", "informed")
    assert told is not None
    assert (await site.api.wait_until_finished(told)).by_state == {"delivered": 4}
    titles = await read_titles(site, city)
    assert {name: len(found) for name, found in titles.items()} == {name: 0 if name in SLOW else 2 for name in USERS}
    messages = await site.push_service.control.messages(device=USERS[0])
    invitation, cancellation = (_shown(message)["tag"] for message in messages[-2:])
    assert invitation == cancellation, "the cancellation replaces the invitation on the device"


async def test_a_new_time_is_not_read_after_the_cancellation(site: Installation) -> None:
    city = create_name("Yens")
    event = await create_event(site, city, *USERS, status="ACTIVE")
    await hold_back_slow_devices(site)
    moved = (await site.api.expect(200, "PATCH", f"/api/events/{event}", {"startDate": LATER})).read(Json)
    await wait_for_states(site, moved["notification"]["id"], {"delivered": 4, "pending": 4})
    cancelled = (await post(site, f"/api/events/{event}/cancel"))["notification"]["id"]
    await release_slow_devices(site, moved["notification"]["id"])
    assert (await site.api.wait_until_finished(cancelled)).by_state == {"delivered": 8}
    await site.api.wait_until_finished(moved["notification"]["id"])
    titles = await read_titles(site, city)
    assert {name: len(found) for name, found in titles.items()} == {name: 1 if name in SLOW else 2 for name in USERS}
    assert len({found[-1] for found in titles.values()}) == 1, "all read the cancellation last"


@pytest.mark.extended
async def test_a_time_that_is_moved_back_is_only_told_to_those_who_heard_of_the_move(site: Installation) -> None:
    city = create_name("Brig")
    event = await create_event(site, city, *USERS, status="ACTIVE")
    # a send that is in flight as the time is moved back may arrive, and would be followed by the old time
    await hold_back_slow_devices(site, retry_after=8)
    moved = (await site.api.expect(200, "PATCH", f"/api/events/{event}", {"startDate": LATER})).read(Json)
    await wait_for_refusals(site, moved["notification"]["id"])
    await wait_for_states(site, moved["notification"]["id"], {"delivered": 4, "pending": 4})
    back = (await site.api.expect(200, "PATCH", f"/api/events/{event}", {"startDate": START})).read(Json)
    assert (await site.api.wait_until_finished(back["notification"]["id"])).by_state == {"delivered": 4}
    await site.push_service.control.set_rules()
    explained = await site.api.expect(
        200, "GET", f"/api/explain?userId={SLOW[0]}&notificationId={back['notification']['id']}"
    )
    assert "last heard the same" in str(explained.read(Json))
    titles = await read_titles(site, city)
    assert {name: len(found) for name, found in titles.items()} == {name: 0 if name in SLOW else 2 for name in USERS}


async def test_an_announcement_that_a_change_supersedes_is_repeated_for_the_rest(site: Installation) -> None:
    event = await create_event(site, create_name("Thun"), USERS[-1])
    await hold_back_slow_devices(site)
    announced = (await post(site, f"/api/events/{event}/publish"))["notification"]["id"]
    await wait_for_states(site, announced, {"delivered": 4, "pending": 4})
    await site.api.expect(200, "PATCH", f"/api/events/{event}", {"startDate": LATER})
    await release_slow_devices(site, announced)
    repeated = await find_notification(site, event, "NEW_EVENT", "informed")
    assert repeated is not None
    # the ticket holder hears of the change, the others are invited to the new time
    assert (await site.api.wait_until_finished(repeated)).by_state == {"delivered": 3}
    await site.api.wait_until_finished(announced)
    received = await asyncio.gather(*(site.push_service.control.messages(device=name) for name in SLOW))
    bodies = [_shown(messages[-1])["body"] for messages in received]
    assert all("8:00" in body or "20:00" in body for body in bodies), bodies


async def test_a_draft_sends_nothing_more_and_a_new_publication_reaches_the_rest(site: Installation) -> None:
    city = create_name("Sion")
    event = await create_event(site, city)
    await hold_back_slow_devices(site)
    announced = (await post(site, f"/api/events/{event}/publish"))["notification"]["id"]
    await wait_for_states(site, announced, {"delivered": 4, "pending": 4})
    await site.api.expect(200, "PATCH", f"/api/events/{event}", {"status": "DRAFT"})
    await release_slow_devices(site, announced)
    await wait_for_states(site, announced, {"delivered": 4, "cancelled": 4})
    again = (await post(site, f"/api/events/{event}/publish"))["notification"]["id"]
    assert (await site.api.wait_until_finished(again)).by_state == {"delivered": 4}
    titles = await read_titles(site, city)
    assert [len(found) for found in titles.values()] == [1] * len(USERS)
