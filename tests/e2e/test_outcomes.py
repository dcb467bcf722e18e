"""Outcomes of messages that the push service does not accept at once."""

from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import ResponseRule, SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
LONG = "Doors open at six, and there is much more to say about it. " * 30

#: device → the service's response rule; each belongs to a user of the same name, who also has a working device
RESPONSE_RULES = {
    "gone": ResponseRule(status=410),
    "missing": ResponseRule(status=404),
    "throttled": ResponseRule(status=429, retry_after=2, times=1),
    "failing": ResponseRule(status=500, times=2),
    "small": ResponseRule(status=413, times=1),
    "smaller": ResponseRule(status=413),
    "hanging": ResponseRule(hang=True, times=1),
    "lost": ResponseRule(lost=True, times=1),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sent(server: TidingsServer, push: SpawnedMockPush) -> dict[str, str]:
    """Notify all users at once, because some outcomes take seconds; return user → notification."""
    await push.control.set_rules(*(_for(name, rule) for name, rule in RESPONSE_RULES.items()))
    notifications = {}
    for name in RESPONSE_RULES:
        await sign_up(server, push, name, name, f"{name}-good")
    for name in RESPONSE_RULES:
        notifications[name] = await send_message(server, name, body=LONG)
    return notifications


def _for(device: str, rule: ResponseRule) -> ResponseRule:
    return ResponseRule(
        status=rule.status,
        retry_after=rule.retry_after,
        hang=rule.hang,
        lost=rule.lost,
        times=rule.times,
        device=device,
    )


async def sign_up(server: TidingsServer, push: SpawnedMockPush, user: str, *devices: str) -> None:
    await server.expect(201, "PUT", f"/api/users/{user}", {})
    for device in devices:
        body = {**(await push.control.subscription(device)), "device": device}
        await server.expect(201, "POST", "/api/push/subscribe", body, token=server.user_token(user))


async def send_message(server: TidingsServer, user: str, *, body: str = "There") -> str:
    wanted = {"userId": user, "templateCode": "MESSAGE", "variables": {"title": "Hi", "body": body}}
    notification: str = (await server.expect(202, "POST", "/api/notifications", wanted)).read(Json)["id"]
    return notification


async def delivery_to(server: TidingsServer, notification: str, device: str) -> Json:
    """Return the delivery to one device, once all deliveries of the notification are final."""
    await server.wait_until_finished(notification, within=45)
    items = (await server.expect(200, "GET", f"/api/notifications/{notification}/deliveries")).read(Json)["items"]
    (found,) = (one for one in items if one["target"].startswith(f"{device} "))
    delivery: Json = found
    return delivery


def seconds_between(first: Json, second: Json) -> float:
    started = datetime.fromisoformat(second["startedAt"])
    return (started - datetime.fromisoformat(first["finishedAt"])).total_seconds()


def attempt_statuses(delivery: Json) -> list[tuple[int, str, int | None]]:
    return [(one["number"], one["outcome"], one["status"]) for one in delivery["attempts"]]


@pytest.mark.parametrize(("name", "status"), [("gone", 410), ("missing", 404)])
async def test_a_gone_device_is_removed_and_the_users_other_one_kept(
    server: TidingsServer, sent: dict[str, str], name: str, status: int
) -> None:
    dead = await delivery_to(server, sent[name], name)
    assert (dead["state"], attempt_statuses(dead)) == ("gone", [(1, "gone", status)])
    assert (await delivery_to(server, sent[name], f"{name}-good"))["state"] == "delivered"
    own = await server.expect(200, "GET", "/api/push/subscriptions", token=server.user_token(name))
    states = {one["device"]: one["state"] for one in own.read(Json)["items"]}
    assert states == {name: "gone", f"{name}-good": "active"}
    following = await server.wait_until_finished(await send_message(server, name))
    assert following.by_state == {"delivered": 1}
    explanation = await server.expect(200, "GET", f"/api/explain?userId={name}&notificationId={sent[name]}")
    assert explanation.read(Json)["verdict"] == "partly_delivered"


async def test_a_device_that_subscribes_again_is_reached(server: TidingsServer, push: SpawnedMockPush) -> None:
    await sign_up(server, push, "back", "back")
    await server.expect(204, "DELETE", "/api/push/unsubscribe", await endpoint(push, "back"), token=_token(server))
    assert (await server.wait_until_finished(await send_message(server, "back"))).skipped == 1
    body = await push.control.subscription("back")
    await server.expect(201, "POST", "/api/push/subscribe", body, token=_token(server))
    assert (await server.wait_until_finished(await send_message(server, "back"))).by_state == {"delivered": 1}


def _token(server: TidingsServer) -> str:
    return server.user_token("back")


async def endpoint(push: SpawnedMockPush, device: str) -> dict[str, str]:
    return {"endpoint": (await push.control.subscription(device))["endpoint"]}


async def test_retry_after_is_honoured_and_does_not_count_as_an_attempt(
    server: TidingsServer, sent: dict[str, str]
) -> None:
    delivery = await delivery_to(server, sent["throttled"], "throttled")
    assert delivery["state"] == "delivered"
    # the second request is still the first attempt
    assert attempt_statuses(delivery) == [(1, "deferred", 429), (1, "delivered", 201)]
    assert seconds_between(*delivery["attempts"]) >= 2


async def test_a_delivery_succeeds_on_the_third_attempt(server: TidingsServer, sent: dict[str, str]) -> None:
    delivery = await delivery_to(server, sent["failing"], "failing")
    assert delivery["state"] == "delivered"
    assert attempt_statuses(delivery) == [(1, "deferred", 500), (2, "deferred", 500), (3, "delivered", 201)]
    first, second, third = delivery["attempts"]
    assert seconds_between(first, second) >= 2
    assert seconds_between(second, third) >= 4


async def test_a_message_that_is_too_large_is_shortened_once(
    server: TidingsServer, push: SpawnedMockPush, sent: dict[str, str]
) -> None:
    delivery = await delivery_to(server, sent["small"], "small")
    assert attempt_statuses(delivery) == [(1, "delivered", 201)]
    (whole,) = await push.control.messages(device="small-good")
    (short,) = await push.control.messages(device="small")
    assert whole.payload is not None
    assert short.payload is not None
    # both devices have one host, whose limit is remembered from the first refusal on
    for body in (_body(whole.payload), _body(short.payload)):
        assert body == LONG.strip() or (body.endswith("…") and LONG.startswith(body[:-1]))
    assert _body(short.payload).endswith("…")


def _body(payload: Any) -> str:
    text: str = payload["notification"]["body"]
    return text


async def test_a_message_that_stays_too_large_fails_permanently(server: TidingsServer, sent: dict[str, str]) -> None:
    delivery = await delivery_to(server, sent["smaller"], "smaller")
    assert (delivery["state"], attempt_statuses(delivery)) == ("refused", [(1, "refused", 413)])


async def test_a_broken_connection_is_retried(
    server: TidingsServer, push: SpawnedMockPush, sent: dict[str, str]
) -> None:
    delivery = await delivery_to(server, sent["lost"], "lost")
    assert attempt_statuses(delivery) == [(1, "deferred", None), (2, "delivered", 201)]
    # only the response was lost: the message arrives twice under one tag, and a device shows it once
    messages = await push.control.messages(device="lost")
    assert len({message.topic for message in messages}) == 1


async def test_a_request_to_a_hanging_service_times_out_and_is_retried(
    server: TidingsServer, sent: dict[str, str]
) -> None:
    delivery = await delivery_to(server, sent["hanging"], "hanging")
    assert attempt_statuses(delivery) == [(1, "deferred", None), (2, "delivered", 201)]
    assert "did not answer within" in delivery["attempts"][0]["why"]


@pytest.mark.parametrize(
    "refused",
    [
        "https://127.0.0.1/push/x",
        "https://10.0.0.8/push/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/push/x",
        "https://2130706433/push/x",
        "https://localhost/push/x",
        "https://push.example.com/push/x",
        "http://fcm.googleapis.com/fcm/send/x",
        "https://fcm.googleapis.com:8443/fcm/send/x",
        "https://fcm.googleapis.com@10.0.0.8/fcm/send/x",
        "https://fcm.googleapis.com.example.com/fcm/send/x",
        "file:///etc/passwd",
    ],
)
async def test_an_endpoint_of_an_unknown_push_service_is_rejected(
    server: TidingsServer, push: SpawnedMockPush, sent: dict[str, str], refused: str
) -> None:
    body = {**(await push.control.subscription("x")), "endpoint": refused}
    answer = await server.expect(422, "POST", "/api/push/subscribe", body, token=server.user_token("gone"))
    assert [one["field"] for one in answer.read(Json)["errors"]] == ["endpoint"]


async def test_a_user_cannot_take_over_or_delete_another_users_device(
    server: TidingsServer, push: SpawnedMockPush
) -> None:
    await sign_up(server, push, "owner", "owned")
    await server.expect(201, "PUT", "/api/users/thief", {})
    attacker = server.user_token("thief")
    known = await endpoint(push, "owned")
    guessed = {**(await push.control.subscription("thiefs-own")), **known}
    answer = await server.expect(409, "POST", "/api/push/subscribe", guessed, token=attacker)
    assert answer.read(Json)["code"] == "endpoint_taken"
    await server.expect(204, "DELETE", "/api/push/unsubscribe", known, token=attacker)
    own = {**(await push.control.subscription("thiefs-own")), "replaces": known["endpoint"]}
    await server.expect(201, "POST", "/api/push/subscribe", own, token=attacker)
    assert (await server.wait_until_finished(await send_message(server, "owner"))).by_state == {"delivered": 1}
    assert len(await push.control.messages(device="owned")) == 1


async def test_a_browser_used_by_another_user_serves_its_new_user_only(
    server: TidingsServer, push: SpawnedMockPush
) -> None:
    await sign_up(server, push, "before", "shared")
    await server.expect(201, "PUT", "/api/users/after", {})
    body = await push.control.subscription("shared")
    answer = await server.call("POST", "/api/push/subscribe", body, token=server.user_token("after"))
    assert answer.status in (200, 201)
    assert (await server.wait_until_finished(await send_message(server, "before"))).by_state == {}
    assert (await server.wait_until_finished(await send_message(server, "after"))).by_state == {"delivered": 1}


async def test_a_ticket_returned_during_a_retry_wait_stops_the_message(
    server: TidingsServer, push: SpawnedMockPush
) -> None:
    """The preflight check before the retry takes the change into account."""
    await push.control.set_rules(ResponseRule(status=429, retry_after=2, times=1, device="returning"))
    await sign_up(server, push, "returning", "returning")
    draft = {"title": "Returned", "startDate": "2030-05-01T18:00:00Z", "status": "ACTIVE"}
    event = (await server.expect(201, "POST", "/api/events", draft)).read(Json)["id"]
    await server.expect(201, "POST", f"/api/events/{event}/tickets", {"userId": "returning"})
    moved = await server.expect(200, "PATCH", f"/api/events/{event}", {"startDate": "2030-05-01T20:00:00Z"})
    notification = moved.read(Json)["notification"]["id"]
    await eventually(lambda: _is_throttled(server, notification), within=10)
    await server.expect(204, "DELETE", f"/api/events/{event}/tickets", {"userId": "returning"})
    delivery = await delivery_to(server, notification, "returning")
    assert (delivery["state"], delivery["why"]) == ("skipped", "left_audience")


async def _is_throttled(server: TidingsServer, notification: str) -> bool | None:
    items = (await server.expect(200, "GET", f"/api/notifications/{notification}/deliveries")).read(Json)["items"]
    return True if items and items[0]["attempts"] else None
