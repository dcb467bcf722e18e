"""Reminders of events, with a real server: sent before the start, moved with the event, to who holds a ticket then."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.server import TidingsServer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
#: from now until the first reminder
SOON = timedelta(seconds=4)


@pytest.fixture(scope="module")
def settings() -> Mapping[str, str]:
    return {
        "TIDINGS_INAPP__ENABLED": "true",
        "TIDINGS_EVENTS__REMINDER_HOURS": "3",
        "TIDINGS_EVENTS__VENUE_TIMEZONE": "Asia/Tokyo",
    }


async def publish_event(server: TidingsServer, title: str, starts: datetime, holder: str) -> str:
    """Return the id of a published event with one ticket."""
    await server.expect(201, "PUT", f"/api/users/{holder}", {})
    body = {"title": title, "startDate": starts.isoformat()}
    event: str = (await server.expect(201, "POST", "/api/events", body)).read(Json)["id"]
    await server.expect(200, "POST", f"/api/events/{event}/publish")
    await server.expect(201, "POST", f"/api/events/{event}/tickets", {"userId": holder})
    return event


async def read_titles(server: TidingsServer, user: str) -> list[str]:
    token = server.user_token(user)
    items = (await server.expect(200, "GET", "/api/inbox", token=token)).read(Json)["items"]
    return [item["title"] for item in items]


async def test_a_reminder_is_sent_before_the_start_and_moves_with_the_event(server: TidingsServer) -> None:
    starts = datetime.now(UTC) + timedelta(hours=3) + SOON
    await publish_event(server, "Carmen", starts, "holder")
    moved = await publish_event(server, "Tosca", starts, "moved")
    returned = await publish_event(server, "Aida", starts, "returned")
    later = {"startDate": (starts + timedelta(days=1)).isoformat()}
    await server.expect(200, "PATCH", f"/api/events/{moved}", later)
    await server.expect(204, "DELETE", f"/api/events/{returned}/tickets", {"userId": "returned"})

    async def is_reminded() -> bool:
        return "Starting soon: Carmen" in await read_titles(server, "holder")

    await eventually(is_reminded, pause=0.5)
    page = (await server.expect(200, "GET", "/api/notifications?templateCode=EVENT_REMINDER")).read(Json)
    [sent] = [item for item in page["items"] if item["variables"]["eventTitle"] == "Carmen"]
    assert sent["variables"]["venueTimezone"] == "Asia/Tokyo"
    items = (await server.expect(200, "GET", "/api/inbox", token=server.user_token("holder"))).read(Json)["items"]
    bodies = [item["body"] for item in items if item["title"].startswith("Starting soon")]
    assert bodies[0].endswith(("JST", "UTC+09:00")), "the zone of the venue, for a user without a zone"
    of_moved = [item for item in page["items"] if item["source"] == f"event:{moved}:reminder"]
    assert [item["supersededBy"] for item in of_moved] == [None, of_moved[0]["id"]]
    for user in ("moved", "returned"):
        assert not [title for title in await read_titles(server, user) if title.startswith("Starting soon")]
