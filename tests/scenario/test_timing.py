"""When: delays, times of sending, cancellations before it is due, and what came too late."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tidings.testing.mock_push import Rule, SpawnedMockPush
from tidings.testing.server import TidingsServer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
DELAY_MS = 1500
#: what the clocks of two processes on one machine and their rounding may differ
SLACK = timedelta(milliseconds=20)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def ana(server: TidingsServer, push: SpawnedMockPush) -> None:
    await sign_up(server, push, "ana")


async def sign_up(server: TidingsServer, push: SpawnedMockPush, name: str) -> None:
    await server.expect(201, "PUT", f"/api/users/{name}", {})
    device = await push.control.subscription(name)
    await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token(name))


async def tell(server: TidingsServer, title: str, user: str = "ana", **options: object) -> str:
    wanted = {
        "userId": user,
        "templateCode": "MESSAGE",
        "variables": {"title": title, "body": "There"},
        "options": options,
    }
    notification: str = (await server.expect(202, "POST", "/api/notifications", wanted)).read(Json)["id"]
    return notification


async def arrivals(push: SpawnedMockPush, device: str = "ana") -> dict[str, datetime]:
    """Return title → when it arrived."""
    found = {}
    for message in await push.control.messages(device=device):
        assert message.payload is not None
        notification: Any = message.payload["notification"]
        found[notification["title"]] = datetime.fromtimestamp(message.received_at, UTC)
    return found


async def test_a_delay_is_kept_and_not_stretched(server: TidingsServer, push: SpawnedMockPush) -> None:
    asked = datetime.now(UTC)
    notification = await tell(server, "delayed", delay=DELAY_MS)
    assert (await server.progress(notification)).status == "accepted"
    await server.finished(notification)
    arrived = (await arrivals(push))["delayed"]
    due = asked + timedelta(milliseconds=DELAY_MS)
    assert due - SLACK <= arrived < due + timedelta(seconds=5)


async def test_a_time_of_sending_is_kept(server: TidingsServer, push: SpawnedMockPush) -> None:
    due = datetime.now(UTC) + timedelta(milliseconds=DELAY_MS)
    await server.finished(await tell(server, "at its time", sendAt=due.isoformat()))
    arrived = (await arrivals(push))["at its time"]
    assert due - SLACK <= arrived < due + timedelta(seconds=5)


async def test_what_is_cancelled_before_it_is_due_is_never_sent(server: TidingsServer, push: SpawnedMockPush) -> None:
    cancelled = await tell(server, "cancelled", delay=DELAY_MS)
    answer = await server.expect(200, "DELETE", f"/api/notifications/{cancelled}")
    assert answer.read(Json) == {"id": cancelled, "status": "cancelled"}
    # the same again is no mistake
    await server.expect(200, "DELETE", f"/api/notifications/{cancelled}")
    # a later one that arrives proves that the time of the first has passed
    await server.finished(await tell(server, "later", delay=DELAY_MS))
    shown = await arrivals(push)
    assert "later" in shown
    assert "cancelled" not in shown
    progress = await server.progress(cancelled)
    assert (progress.status, progress.finished, progress.deliveries) == ("cancelled", True, 0)
    told = (await server.expect(200, "GET", f"/api/explain?userId=ana&notificationId={cancelled}")).read(Json)
    assert told["verdict"] == "cancelled"


async def test_what_has_been_sent_cannot_be_cancelled(server: TidingsServer) -> None:
    notification = await tell(server, "sent")
    await server.finished(notification)
    answer = await server.expect(409, "DELETE", f"/api/notifications/{notification}")
    assert answer.read(Json)["code"] == "already_sent"
    assert (await server.progress(notification)).status == "fanned_out"


async def test_no_retry_comes_after_the_end(server: TidingsServer, push: SpawnedMockPush) -> None:
    await push.control.behave(Rule(status=429, retry_after=60, device="ana"))
    end = datetime.now(UTC) + timedelta(seconds=20)
    progress = await server.finished(await tell(server, "throttled", expiresAt=end.isoformat()))
    await push.control.behave()
    assert progress.by_state == {"expired": 1}
    assert "throttled" not in await arrivals(push)


async def test_what_expired_while_the_server_was_down_is_skipped_and_says_so(
    make_server: Callable[..., TidingsServer], push: SpawnedMockPush, tmp_path: Path
) -> None:
    async with make_server(tmp_path / "data") as server:
        await sign_up(server, push, "bob")
        end = datetime.now(UTC) + timedelta(milliseconds=2500)
        notification = await tell(server, "too late", "bob", delay=2000, expiresAt=end.isoformat())
        await server.kill()

        async def over() -> bool:
            return datetime.now(UTC) > end

        await eventually(over)
        await server.restart()
        progress = await server.finished(notification)
        assert (progress.deliveries, progress.skipped) == (0, 1)
        told = (await server.expect(200, "GET", f"/api/explain?userId=bob&notificationId={notification}")).read(Json)
        assert [one["reason"] for one in told["skips"]] == ["expired"]
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
