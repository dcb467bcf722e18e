"""Receipts of service workers over the API: only the browser of the message reports, and only what is tracked."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.support.asgi_client import Client

from tidings.channels.webpush.receipts import MessageKey
from tidings.channels.webpush.server_keys import get_channel

Json = dict[str, Any]
RECEIPTS = "/api/push/receipts"


@pytest.fixture(autouse=True)
def _track_a_category(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOWN", "CLICKS"):
        monkeypatch.setenv(f"TIDINGS_WEBPUSH__TRACK_{name}", "MESSAGE")


async def send(call: Client, browser: Callable[..., Json], **options: object) -> Json:
    """Send a message to a device of u1. Returns what its service worker knows of it."""
    assert (await call("POST", "/api/push/subscribe", json=browser(), user="u1")).status in (200, 201)
    body = {"userId": "u1", "templateCode": "MESSAGE", "variables": {"title": "New", "body": "x"}, "options": options}
    notification_id = (await call("POST", "/api/notifications", json=body)).json["id"]
    [delivery] = (await call("GET", f"/api/notifications/{notification_id}/deliveries")).json["items"]
    expires_at = int((call.clock.now() + timedelta(hours=1)).timestamp() * 1000)
    message = MessageKey(notification_id, delivery["id"], expires_at)
    token = get_channel(call.runtime.channels).receipts.sign(message)
    return {
        "notificationId": notification_id,
        "deliveryId": delivery["id"],
        "expiresAt": expires_at,
        "token": token,
        "event": "shown",
    }


async def trace(call: Client, receipt: Json) -> Json:
    found: Json = (await call("GET", f"/api/notifications/{receipt['notificationId']}/trace?userId=u1")).json
    [delivery] = found["deliveries"]
    return delivery  # type: ignore[no-any-return]


async def test_events_of_a_message_are_traced_and_a_repeat_changes_nothing(call: Client, browser: Any) -> None:
    receipt = await send(call, browser)
    for body in (
        receipt,
        receipt,
        receipt | {"event": "clicked", "action": "open", "secondsAgo": 60},
        receipt | {"event": "closed"},
    ):
        reply = await call("POST", RECEIPTS, json=body, key=None)
        assert (reply.status, reply.body) == (204, b"")
    delivery = await trace(call, receipt)
    assert [(one["provider"], one["status"], one["cause"], one["code"]) for one in delivery["receipts"]] == [
        ("browser", None, "click", "open"),
        ("browser", "delivered", "none", None),
        ("browser", None, "close", None),
    ]
    assert (delivery["receiptStatus"], delivery["engagement"]["humanClicks"]) == ("delivered", 1)
    [clicked, shown, _] = delivery["receipts"]
    assert shown["receivedAt"] == clicked["receivedAt"] != clicked["occurredAt"]
    assert shown["repeats"] == 1


async def test_a_click_counts_as_engagement_of_the_user(call: Client, browser: Any) -> None:
    receipt = await send(call, browser)
    engaged = {"kind": "engaged", "action": "clicked", "channel": "webpush", "days": 30}
    assert (
        await call("PUT", "/api/audiences/engaged", json={"definition": {"kind": "users", "userIds": ["u1"]}})
    ).status == 201

    async def count() -> tuple[int, int]:
        found = (await call("POST", "/api/audiences/estimate", json={"audience": engaged})).json["examined"]
        stats = (await call("GET", "/api/audiences/engaged/stats")).json
        return found, stats["channels"]["webpush"]["mostEngaged"]

    await call("POST", RECEIPTS, json=receipt, key=None)
    assert await count() == (0, 0), "a message that was shown is no act of a person"
    await call("POST", RECEIPTS, json=receipt | {"event": "clicked"}, key=None)
    assert await count() == (1, 1)


async def test_forged_and_malformed_receipts_are_refused(call: Client, browser: Any) -> None:
    receipt = await send(call, browser)
    other = await send(call, browser)
    for body in (
        receipt | {"token": other["token"]},
        receipt | {"deliveryId": other["deliveryId"]},
        receipt | {"expiresAt": receipt["expiresAt"] + 1},
    ):
        reply = await call("POST", RECEIPTS, json=body, key=None)
        assert (reply.status, reply.json["code"]) == (401, "invalid_receipt")
    for wrong in (
        {"event": "opened"},
        {"token": "x" * 65},
        {"notificationId": "n"},
        {"secondsAgo": -1},
        {"action": "a" * 101},
        {"expiresAt": 10**18},
    ):
        assert (await call("POST", RECEIPTS, json=receipt | wrong, key=None)).status == 422, wrong
    assert (await trace(call, receipt))["receipts"] == []


async def test_what_is_not_recorded_is_no_error_for_the_worker(call: Client, browser: Any) -> None:
    receipt = await send(call, browser)
    late = MessageKey(receipt["notificationId"], receipt["deliveryId"], 1)
    token = get_channel(call.runtime.channels).receipts.sign(late)
    assert (await call("POST", RECEIPTS, json=receipt | {"expiresAt": 1, "token": token}, key=None)).status == 204
    assert (await trace(call, receipt))["receipts"] == []
    assert (await call("DELETE", "/api/users/u1")).status in (200, 204)
    assert (await call("POST", RECEIPTS, json=receipt, key=None)).status == 204
    async with call.runtime.store.read_once() as tx:
        assert not await call.runtime.store.receipts.page(tx, channel=None, cause=None, before=None, limit=9)


async def test_c63_a_category_that_is_not_tracked_any_more_records_nothing(
    call: Client, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = await send(call, browser)
    policy = get_channel(call.runtime.channels).receipts
    monkeypatch.setattr(policy, "clicks", frozenset())
    assert (await call("POST", RECEIPTS, json=receipt | {"event": "clicked"}, key=None)).status == 204
    assert (await trace(call, receipt))["receipts"] == []
