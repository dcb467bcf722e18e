"""Timing: delays, scheduled sends, cancellations before they are due, and expiry."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import ResponseRule, SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
DELAY_MS = 1500
#: tolerance for rounding and for the clocks of two processes on one machine
SLACK = timedelta(milliseconds=20)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def ana(server: TidingsServer, push: SpawnedMockPush) -> None:
    await sign_up(server, push, "ana")


async def sign_up(server: TidingsServer, push: SpawnedMockPush, name: str) -> None:
    await server.expect(201, "PUT", f"/api/users/{name}", {})
    device = await push.control.subscription(name)
    await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token(name))


async def send_message(server: TidingsServer, title: str, user: str = "ana", **options: object) -> str:
    wanted = {
        "userId": user,
        "templateCode": "MESSAGE",
        "variables": {"title": title, "body": "There"},
        "options": options,
    }
    notification: str = (await server.expect(202, "POST", "/api/notifications", wanted)).read(Json)["id"]
    return notification


async def arrivals(push: SpawnedMockPush, device: str = "ana") -> dict[str, datetime]:
    """Return title → time of arrival."""
    found = {}
    for message in await push.control.messages(device=device):
        assert message.payload is not None
        notification: Any = message.payload["notification"]
        found[notification["title"]] = datetime.fromtimestamp(message.received_at, UTC)
    return found


async def test_a_delayed_notification_arrives_on_time(server: TidingsServer, push: SpawnedMockPush) -> None:
    requested_at = datetime.now(UTC)
    notification = await send_message(server, "delayed", delay=DELAY_MS)
    assert (await server.get_progress(notification)).status == "accepted"
    await server.wait_until_finished(notification)
    arrived = (await arrivals(push))["delayed"]
    due = requested_at + timedelta(milliseconds=DELAY_MS)
    assert due - SLACK <= arrived < due + timedelta(seconds=5)


async def test_a_scheduled_notification_arrives_on_time(server: TidingsServer, push: SpawnedMockPush) -> None:
    due = datetime.now(UTC) + timedelta(milliseconds=DELAY_MS)
    await server.wait_until_finished(await send_message(server, "at its time", sendAt=due.isoformat()))
    arrived = (await arrivals(push))["at its time"]
    assert due - SLACK <= arrived < due + timedelta(seconds=5)


async def test_a_notification_cancelled_before_it_is_due_is_never_sent(
    server: TidingsServer, push: SpawnedMockPush
) -> None:
    cancelled = await send_message(server, "cancelled", delay=DELAY_MS)
    answer = await server.expect(200, "DELETE", f"/api/notifications/{cancelled}")
    assert answer.read(Json) == {"id": cancelled, "status": "cancelled"}
    # cancelling again is not an error
    await server.expect(200, "DELETE", f"/api/notifications/{cancelled}")
    # the arrival of a later notification proves that the first one's time has passed
    await server.wait_until_finished(await send_message(server, "later", delay=DELAY_MS))
    shown = await arrivals(push)
    assert "later" in shown
    assert "cancelled" not in shown
    progress = await server.get_progress(cancelled)
    assert (progress.status, progress.finished, progress.deliveries) == ("cancelled", True, 0)
    explanation = (await server.expect(200, "GET", f"/api/explain?userId=ana&notificationId={cancelled}")).read(Json)
    assert explanation["verdict"] == "cancelled"


async def test_a_sent_notification_cannot_be_cancelled(server: TidingsServer) -> None:
    notification = await send_message(server, "sent")
    await server.wait_until_finished(notification)
    answer = await server.expect(409, "DELETE", f"/api/notifications/{notification}")
    assert answer.read(Json)["code"] == "already_sent"
    assert (await server.get_progress(notification)).status == "fanned_out"


async def test_no_retry_happens_after_the_expiry(server: TidingsServer, push: SpawnedMockPush) -> None:
    await push.control.set_rules(ResponseRule(status=429, retry_after=60, device="ana"))
    expiry = datetime.now(UTC) + timedelta(seconds=20)
    progress = await server.wait_until_finished(await send_message(server, "throttled", expiresAt=expiry.isoformat()))
    await push.control.set_rules()
    assert progress.by_state == {"expired": 1}
    assert "throttled" not in await arrivals(push)


async def test_a_notification_that_expired_during_downtime_is_skipped_with_the_reason(
    make_server: Callable[..., TidingsServer], push: SpawnedMockPush, tmp_path: Path
) -> None:
    async with make_server(tmp_path / "data") as server:
        await sign_up(server, push, "bob")
        expiry = datetime.now(UTC) + timedelta(milliseconds=2500)
        notification = await send_message(server, "too late", "bob", delay=2000, expiresAt=expiry.isoformat())
        await server.kill()

        async def has_expired() -> bool:
            return datetime.now(UTC) > expiry

        await eventually(has_expired)
        await server.restart()
        progress = await server.wait_until_finished(notification)
        assert (progress.deliveries, progress.skipped) == (0, 1)
        explanation = (await server.expect(200, "GET", f"/api/explain?userId=bob&notificationId={notification}")).read(
            Json
        )
        assert [one["reason"] for one in explanation["skips"]] == ["expired"]
    assert await arrivals(push, "bob") == {}


async def test_a_dry_run_stores_and_sends_nothing(server: TidingsServer) -> None:
    before = (await server.expect(200, "GET", "/api/notifications?limit=1")).read(Json)["items"][0]["id"]
    wanted = {
        "userId": "ana",
        "templateCode": "MESSAGE",
        "variables": {"title": "Dry", "body": "run"},
        "options": {"dryRun": True},
    }
    preview = (await server.expect(200, "POST", "/api/notifications", wanted)).read(Json)
    assert (preview["dryRun"], preview["recipients"], preview["byChannel"]) == (True, 1, {"webpush": 1})
    assert (await server.expect(200, "GET", "/api/notifications?limit=1")).read(Json)["items"][0]["id"] == before
