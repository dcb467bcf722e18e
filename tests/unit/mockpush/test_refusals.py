"""A push with one fault gets the response for that fault, and does not count as accepted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tidings.mockpush import MockPush, MockPushOptions
from tidings.mockpush.base64url import encode

if TYPE_CHECKING:
    from tests.unit.mockpush.conftest import HttpClient, Push, Sender

    Connect = Callable[[str], Awaitable[HttpClient]]


async def test_a_valid_push_is_accepted_decrypted_and_located(
    push: MockPush, client: HttpClient, sender: Sender
) -> None:
    answer = await client.send(sender.push(Topic="abc"))
    assert answer.status == 201
    assert answer.headers["location"].startswith(push.origin)
    assert push.messages[0].payload == {
        "web_push": 8030,
        "notification": {"title": "Moved", "navigate": "/events/1", "body": "Now at 19:30"},
    }


DAY = 24 * 3600
CLAIMS: dict[str, dict[str, object]] = {
    "vapid_audience": {"aud": "https://push.example"},
    "vapid_audience with a slash": {"aud": "http://127.0.0.1/"},
    "vapid_audience as a list": {"aud": ["http://127.0.0.1"]},
    "vapid_expired": {"exp": int(time.time()) - 1},
    # far in the future: this test may run long after its collection
    "vapid_expiry": {"exp": int(time.time()) + 2 * DAY},
    "vapid_expiry missing": {"exp": None},
    "vapid_subject": {"sub": "ops"},
    "vapid_subject missing": {"sub": None},
    "vapid_subject in <>": {"sub": "mailto:<ops@example.com>"},
}


@pytest.mark.parametrize("name", CLAIMS)
async def test_wrong_claims_are_forbidden(name: str, client: HttpClient, sender: Sender) -> None:
    answer = await client.send(sender.push(Authorization=sender.authorization(**CLAIMS[name])))
    assert (answer.status, answer.reason) == (403, name.split()[0])


async def test_a_token_signed_by_another_key_is_forbidden(client: HttpClient, sender: Sender, push: MockPush) -> None:
    other = type(sender)(push.origin)
    token = sender.authorization().split(",")[0]
    answer = await client.send(sender.push(Authorization=f"{token}, k={encode(other.public_key)}"))
    assert (answer.status, answer.reason) == (403, "vapid_signature")


async def test_a_device_accepts_only_the_key_of_its_subscription(
    push: MockPush, client: HttpClient, sender: Sender
) -> None:
    push.bind("u1-1", encode(type(sender)(push.origin).public_key))
    assert (await client.send(sender.push("u1-1"))).reason == "vapid_key_mismatch"
    assert (await client.send(sender.push("u2-1"))).status == 201


async def test_a_valid_token_expires(connect: Connect, sender: Sender) -> None:
    now = time.time()
    async with MockPush(now=lambda: now) as push:
        client = await connect(push.origin)
        message = type(sender)(push.origin).push()
        assert (await client.send(message)).status == 201
        now += 3601
        assert (await client.send(message)).reason == "vapid_expired"


def without(push: Push, name: str) -> Push:
    return replace(push, headers={k: v for k, v in push.headers.items() if k != name})


BROKEN: dict[str, tuple[int, Callable[[Push], Push]]] = {
    "ttl_missing": (400, lambda p: without(p, "TTL")),
    "ttl_malformed": (400, lambda p: replace(p, headers={**p.headers, "TTL": "-1"})),
    "content_encoding": (400, lambda p: replace(p, headers={**p.headers, "Content-Encoding": "aesgcm"})),
    "topic": (400, lambda p: replace(p, headers={**p.headers, "Topic": "a" * 33})),
    "urgency": (400, lambda p: replace(p, headers={**p.headers, "Urgency": "soon"})),
    "too_large": (413, lambda p: replace(p, body=b"x" * 4097)),
    "vapid_missing": (401, lambda p: without(p, "Authorization")),
    "vapid_malformed": (401, lambda p: replace(p, headers={**p.headers, "Authorization": "WebPush abc"})),
    "undecryptable": (400, lambda p: replace(p, body=p.body[:-1] + bytes([p.body[-1] ^ 1]))),
    "undecryptable empty": (400, lambda p: replace(p, body=b"")),
    "undecryptable for another device": (400, lambda p: replace(p, device="u2-1")),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_push_is_refused_with_its_reason(
    name: str, push: MockPush, client: HttpClient, sender: Sender
) -> None:
    status, spoil = BROKEN[name]
    answer = await client.send(spoil(sender.push()))
    assert (answer.status, answer.reason) == (status, name.split()[0])
    stats = push.stats()
    assert (stats.received, stats.accepted, stats.by_status) == (1, 0, {str(status): 1})
    assert stats.failures[0].reason == name.split()[0]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([], "must be a JSON object"),
        ({"notification": {"title": "T", "navigate": "/"}}, "web_push"),
        ({"web_push": 8030}, "notification"),
        ({"web_push": 8030, "notification": {"title": "", "navigate": "/"}}, "notification.title"),
        ({"web_push": 8030, "notification": {"title": "T"}}, "notification.navigate"),
        ({"web_push": 8030, "notification": {"title": "T", "navigate": "/", "actions": [{}]}}, "actions[0].action"),
        ({"web_push": 8030, "app_badge": -1, "notification": {"title": "T", "navigate": "/"}}, "app_badge"),
    ],
)
async def test_a_payload_that_browsers_cannot_show_is_rejected(
    payload: object, message: str, client: HttpClient, sender: Sender
) -> None:
    answer = await client.send(sender.push(payload=payload))
    assert (answer.status, answer.reason) == (400, "payload")
    assert message in answer.body.decode()


@pytest.mark.parametrize("path", ["/push/", "/push/a/b", "/push/%0a", "/push/" + "x" * 201])
async def test_a_path_without_a_device_is_not_found(path: str, client: HttpClient, sender: Sender) -> None:
    message = sender.push()
    assert (await client.call("POST", path, message.headers, message.body)).status == 404


async def test_the_fast_mode_checks_the_token_but_not_the_message(connect: Connect, sender: Sender) -> None:
    async with MockPush(MockPushOptions(verify_share=0)) as push:
        client = await connect(push.origin)
        own = type(sender)(push.origin)
        assert (await client.send(replace(own.push(), body=b"anything"))).status == 201
        assert (await client.send(own.push(Authorization=sender.authorization()))).reason == "vapid_audience"
        assert push.stats().verified == 0
        assert push.messages[0].problem == "the body is shorter than the aes128gcm header"


async def test_a_verified_share_is_the_same_devices_every_time(connect: Connect, sender: Sender) -> None:
    async with MockPush(MockPushOptions(verify_share=0.5)) as push:
        client = await connect(push.origin)
        own = type(sender)(push.origin)
        verified = []
        for device in 2 * [f"u{n}-1" for n in range(40)]:
            before = push.stats().verified
            await client.send(own.push(device))
            verified.append(push.stats().verified > before)
        assert verified[:40] == verified[40:]
        assert 10 <= sum(verified[:40]) <= 30
