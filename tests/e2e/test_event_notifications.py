"""Event notifications: announcements once, drafts never, one per change, cancellations to all."""

import sqlite3
from contextlib import closing
from typing import Any

import pytest
import pytest_asyncio
from tests.support.server import TidingsServer

from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
START = "2030-06-21T19:00:00+02:00"


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def people(server: TidingsServer, push: SpawnedMockPush) -> None:
    """`fan` receives everything, `quiet` has turned off all optional categories; both live in Basel."""
    for name in ("fan", "quiet"):
        await server.expect(201, "PUT", f"/api/users/{name}", {"city": "Basel"})
        device = await push.control.subscription(name)
        await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token(name))
    shown = (await server.expect(200, "GET", "/api/users/quiet/preferences")).read(Json)
    choices = [
        {"category": one["code"], "channel": "webpush", "enabled": False}
        for one in shown["categories"]
        if not one["mandatory"]
    ]
    await server.expect(200, "PUT", "/api/users/quiet/preferences", {"preferences": choices})


async def public_event(server: TidingsServer, **fields: object) -> str:
    """Return a public event for which both hold a ticket; creating an ACTIVE event announces nothing."""
    wanted = {"title": "Recital", "startDate": START, "status": "ACTIVE", **fields}
    event: str = (await server.expect(201, "POST", "/api/events", wanted)).read(Json)["id"]
    for name in ("fan", "quiet"):
        await server.expect(201, "POST", f"/api/events/{event}/tickets", {"userId": name})
    return event


async def patched(server: TidingsServer, event: str, **fields: object) -> Json:
    return (await server.expect(200, "PATCH", f"/api/events/{event}", fields)).read(Json)


async def notified_users(server: TidingsServer, notification: str) -> set[str]:
    await server.wait_until_finished(notification)
    trace = (await server.expect(200, "GET", f"/api/notifications/{notification}/trace")).read(Json)
    return {one["userId"] for one in trace["deliveries"] if one["state"] == "delivered"}


async def templates_about(server: TidingsServer, event: str) -> list[str]:
    """Return the templates of all notifications about an event, oldest first."""
    items = (await server.expect(200, "GET", "/api/notifications?limit=500")).read(Json)["items"]
    return [one["templateCode"] for one in reversed(items) if f"event:{event}:" in (one["source"] or "")]


async def test_an_event_is_announced_once_however_often_it_is_published(server: TidingsServer) -> None:
    draft = {"title": "Premiere", "startDate": START, "city": "Basel"}
    event = (await server.expect(201, "POST", "/api/events", draft)).read(Json)["id"]
    first = (await server.expect(200, "POST", f"/api/events/{event}/publish")).read(Json)
    assert await notified_users(server, first["notification"]["id"]) == {"fan"}
    again = (await server.expect(200, "POST", f"/api/events/{event}/publish")).read(Json)
    assert again["notification"] is None
    await patched(server, event, status="DRAFT")
    back = (await server.expect(200, "POST", f"/api/events/{event}/publish")).read(Json)
    assert back["notification"] is None
    assert await templates_about(server, event) == ["NEW_EVENT"]


async def test_a_draft_never_notifies(server: TidingsServer) -> None:
    draft = await public_event(server, status="DRAFT")
    for change in ({"startDate": "2030-07-01T19:00:00Z"}, {"venue": "Foyer"}, {"status": "CANCELLED"}):
        assert (await patched(server, draft, **change))["notification"] is None
    other = await public_event(server, status="DRAFT")
    refused = await server.expect(
        409, "POST", f"/api/events/{other}/notify", {"title": "Hello", "body": "A draft must not say this"}
    )
    assert refused.read(Json)["code"] == "event_is_draft"
    assert await templates_about(server, draft) == []
    assert await templates_about(server, other) == []


async def test_an_insignificant_change_notifies_no_user(server: TidingsServer) -> None:
    event = await public_event(server)
    changed = await patched(server, event, description="Now with more words", title="The Recital")
    assert changed["change"]["significant"] is False
    assert changed["notification"] is None
    unchanged = await patched(server, event, description="Now with more words", startDate="2030-06-21T17:00:00Z")
    assert unchanged["change"] is None
    assert await templates_about(server, event) == []


async def test_several_changes_at_once_make_one_notification(server: TidingsServer, push: SpawnedMockPush) -> None:
    event = await public_event(server, venue="Foyer")
    before = (await push.control.stats()).accepted
    changed = await patched(server, event, startDate="2030-06-21T20:00:00+02:00", venue="Great Hall", title="Gala")
    assert changed["change"]["types"] == ["time_change", "venue_change", "other"]
    assert await notified_users(server, changed["notification"]["id"]) == {"fan"}
    assert await templates_about(server, event) == ["EVENT_TIME_CHANGE"]
    (message,) = await push.control.messages(after=before)
    assert message.payload is not None
    notification: Any = message.payload["notification"]
    assert notification["title"] == "Gala: new time"
    assert "18:00" in notification["body"]
    assert "Venue: Foyer → Great Hall" in notification["body"]


async def test_a_cancellation_also_reaches_users_who_turned_off_the_rest(server: TidingsServer) -> None:
    event = await public_event(server)
    moved = await patched(server, event, venue="Great Hall")
    assert await notified_users(server, moved["notification"]["id"]) == {"fan"}
    cancelled = (await server.expect(200, "POST", f"/api/events/{event}/cancel")).read(Json)
    assert await notified_users(server, cancelled["notification"]["id"]) == {"fan", "quiet"}
    again = await server.expect(409, "POST", f"/api/events/{event}/cancel")
    assert again.read(Json)["code"] == "already_cancelled"
    assert await templates_about(server, event) == ["EVENT_VENUE_CHANGE", "EVENT_CANCELLATION"]


async def test_a_host_can_send_ticket_holders_a_custom_message(server: TidingsServer) -> None:
    event = await public_event(server)
    words = {"title": "Doors open early", "body": "Come at six."}
    accepted = (await server.expect(202, "POST", f"/api/events/{event}/notify", words)).read(Json)
    assert await notified_users(server, accepted["id"]) == {"fan"}


async def test_a_notification_that_cannot_be_stored_does_not_fail_the_update(server: TidingsServer) -> None:
    event = await public_event(server)
    with closing(sqlite3.connect(server.data_dir / "tidings.db")) as database:
        database.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON notifications "
            f"WHEN NEW.source LIKE 'event:{event}:%' BEGIN SELECT RAISE(ABORT, 'broken on purpose'); END"
        )
        database.commit()
        changed = await patched(server, event, venue="Great Hall")
        database.execute("DROP TRIGGER broken")
        database.commit()
    assert changed["notification"] is None
    assert "EVENT_VENUE_CHANGE was not accepted" in changed["problem"]
    assert (await server.expect(200, "GET", f"/api/events/{event}")).read(Json)["venue"] == "Great Hall"
    assert await templates_about(server, event) == []
    again = await patched(server, event, venue="Small Hall")
    assert await notified_users(server, again["notification"]["id"]) == {"fan"}
