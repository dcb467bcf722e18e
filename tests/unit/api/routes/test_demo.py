"""Routes of the demo site."""

from datetime import timedelta
from typing import Any

import pytest

from tidings.demo.events import EVENTS, event_row
from tidings.packs.events.tables import events
from tidings.stores.engine.transaction import connection_of

MESSAGE = {"name": "Ana", "locale": "de-CH", "timezone": "Europe/Zurich"}


@pytest.fixture
async def visitor(call: Any) -> Any:
    """A client of a signed-up visitor with the demo's events."""
    async with call.runtime.store.transaction() as tx:
        await connection_of(tx).execute(events.insert(), [event_row(event, call.clock.now()) for event in EVENTS])
    reply = await call("POST", "/demo/api/sign-up", json=MESSAGE, key=None)
    assert reply.status == 201, reply.body
    return reply.json


async def test_signing_up_gives_a_token_and_a_ticket(call: Any, visitor: Any) -> None:
    assert set(visitor) == {"userId", "token", "expiresAt", "eventId", "event", "ticket"}
    assert visitor["event"]["id"] == visitor["eventId"] == EVENTS[0].id
    assert (await call("GET", "/api/push/subscriptions", key=visitor["token"])).json["items"] == []
    listed = (await call("GET", "/demo/api/events", key=None)).json["items"]
    assert [event["id"] for event in listed] == [event.id for event in EVENTS if event.status == "ACTIVE"]


async def test_a_visitor_acts_as_the_host(call: Any, visitor: Any) -> None:
    base = f"/demo/api/events/{visitor['eventId']}"
    start = visitor["event"]["startDate"]
    change = {"startDate": start.replace("T18", "T19")}
    changed = await call("POST", f"{base}/change", json=change, key=visitor["token"])
    assert changed.status == 200, changed.body
    assert changed.json["change"]["type"] == "time_change"
    assert changed.json["event"]["endDate"] > visitor["event"]["endDate"]
    id_ = changed.json["notification"]["id"]

    await call.runtime.pipeline.fan_out.plan_next_pages([id_])
    status = (await call("GET", f"/demo/api/notifications/{id_}", key=None)).json
    assert (status["recipients"], status["skipped"], status["finished"]) == (1, 1, True)
    # the route is public: the response has no recipients and no text
    counts = {"recipients", "deliveries", "skipped", "collected", "byState", "waitingSteps"}
    assert set(status) == {"id", "status", "createdAt", "finished", *counts}
    why = (await call("GET", f"/demo/api/explain?notificationId={id_}", key=visitor["token"])).json
    assert (why["userId"], why["verdict"]) == (visitor["userId"], "skipped")

    cancelled = await call("POST", f"{base}/cancel", key=visitor["token"])
    assert (cancelled.json["event"]["status"], cancelled.json["change"]["type"]) == ("CANCELLED", "cancellation")
    assert (await call("POST", f"{base}/cancel", key=visitor["token"])).status == 409

    reset = await call("POST", f"{base}/reset", key=visitor["token"])
    assert (reset.json["event"]["status"], reset.json["event"]["startDate"]) == ("ACTIVE", start)
    assert reset.json["notification"] is None


async def test_a_reset_event_is_in_the_future(call: Any, visitor: Any) -> None:
    call.clock.time += timedelta(days=100)
    token = call.token(visitor["userId"])
    reset = await call("POST", f"/demo/api/events/{visitor['eventId']}/reset", key=token)
    assert reset.json["event"]["startDate"] > call.clock.time.isoformat()


@pytest.mark.parametrize(
    ("change", "field"), [({"status": "CANCELLED"}, "status"), ({"startDate": "soon"}, "startDate"), ({"x": 1}, "x")]
)
async def test_a_visitor_changes_only_what_is_on_the_page(
    call: Any, visitor: Any, change: dict[str, Any], field: str
) -> None:
    reply = await call("POST", f"/demo/api/events/{visitor['eventId']}/change", json=change, key=visitor["token"])
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)


async def test_the_demo_requires_a_sign_up(call: Any, visitor: Any) -> None:
    assert (await call("POST", f"/demo/api/events/{visitor['eventId']}/cancel", key=None)).status == 401
