"""The whole channel from content to outcome, with and without sender processes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs
from py_vapid import Vapid02

from tidings.channels.webpush import EndpointPolicy, WebPushChannel, generate_key, plugin
from tidings.channels.webpush.payload import topic_for
from tidings.errors import ConfigError
from tidings.model.delivery import Message
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription
from tidings.model.template import Content
from tidings.ports.channel import Channel
from tidings.ports.clock import SystemClock

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[int]]
ReadRequest = Callable[[asyncio.StreamReader], Awaitable[tuple[dict[str, str], bytes]]]

KEY = generate_key(datetime(2026, 1, 1, tzinfo=UTC))
DEVICE = ec.derive_private_key(7, ec.SECP256R1())
POINT = DEVICE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
AUTH = bytes(range(16))
SUBJECT = "mailto:ops@example.com"
CONTENT = Content("Jazz night starts later", "7:00 PM → 8:30 PM", "https://tickets.example.com/e/1", "en")


class PushService:
    """Answers as told, keeps what it got. `answers` are used up one a request, then 201."""

    def __init__(self, read_request: ReadRequest) -> None:
        self.read_request = read_request
        self.answers: list[str] = []
        self.seen: list[tuple[dict[str, str], bytes]] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.seen.append(await self.read_request(reader))
            answer = self.answers.pop(0) if self.answers else "201 Created\r\n"
            writer.write(f"HTTP/1.1 {answer}Content-Length: 0\r\n\r\n".encode())

    def decrypted(self, index: int) -> object:
        body = self.seen[index][1]
        return json.loads(http_ece.decrypt(body, private_key=DEVICE, auth_secret=AUTH, version="aes128gcm"))


@pytest.fixture
async def service(serve: Serve, read_request: ReadRequest) -> tuple[PushService, int]:
    found = PushService(read_request)
    return found, await serve(found.handle)


@pytest.fixture(params=[0, 2], ids=["this process", "two processes"])
async def channel(request: pytest.FixtureRequest, service: tuple[PushService, int]) -> AsyncIterator[WebPushChannel]:
    policy = EndpointPolicy.parse(f"127.0.0.1:{service[1]}")
    made = plugin.create([KEY], SUBJECT, policy, SystemClock(), workers=request.param)
    await made.open()
    yield made
    await made.close()


def message(channel: Channel, port: int, content: Content = CONTENT, *, device: str = "x") -> Message:
    target = PushSubscription("s-1", "u-1", f"http://127.0.0.1:{port}/push/{device}", POINT, AUTH, KEY.id)
    payload = channel.encode(content, notification_id="n-1", delivery_id="d-1")
    return Message("d-1", "n-1", target, payload, Priority.HIGH, datetime.now(UTC) + timedelta(hours=2), 1)


async def test_a_device_reads_what_was_said(channel: WebPushChannel, service: tuple[PushService, int]) -> None:
    push, port = service
    sent = message(channel, port)
    assert await channel.send(sent) == Delivered("accepted by the push service", 201)
    assert push.decrypted(0) == json.loads(sent.payload)
    headers = push.seen[0][0]
    assert headers["content-encoding"] == "aes128gcm"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["urgency"] == "high"
    assert headers["topic"] == topic_for("n-1")
    assert 7190 <= int(headers["ttl"]) <= 7200
    assert int(headers["content-length"]) == len(push.seen[0][1])
    assert "transfer-encoding" not in headers
    assert "crypto-key" not in headers
    assert Vapid02.verify(headers["authorization"].replace(", k=", ",k="))


async def test_every_kind_of_outcome_comes_back(channel: WebPushChannel, service: tuple[PushService, int]) -> None:
    push, port = service
    push.answers = ["410 Gone\r\n", "400 Bad\r\n", "500 Oops\r\n", "201 Created\r\n", "429 Slow\r\nRetry-After: 30\r\n"]
    outcomes: list[Outcome] = [await channel.send(message(channel, port)) for _ in range(5)]
    assert [type(outcome) for outcome in outcomes] == [Gone, Refused, Deferred, Delivered, Deferred]
    failed, told = outcomes[2], outcomes[4]
    assert isinstance(told, Deferred)
    assert isinstance(failed, Deferred)
    assert (told.spends_attempt, failed.spends_attempt) == (False, True)
    assert told.until.tzinfo is not None
    assert told.until - datetime.now(UTC) > timedelta(seconds=25)


async def test_a_device_that_is_to_be_left_alone_gets_nothing_else_either(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    push, port = service
    push.answers = ["429 Slow\r\nRetry-After: 30\r\n"]
    told = await channel.send(message(channel, port))
    again = await channel.send(message(channel, port))
    assert isinstance(told, Deferred)
    assert isinstance(again, Deferred)
    assert (again.until, again.spends_attempt, len(push.seen)) == (told.until, False, 1)
    assert isinstance(await channel.send(message(channel, port, device="y")), Delivered)


async def test_a_service_that_says_when_it_is_back_is_asked_nothing_until_then(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    push, port = service
    push.answers = ["503 Away\r\nRetry-After: 120\r\n"]
    outcomes = [await channel.send(message(channel, port, device=str(number))) for number in range(3)]
    for outcome in outcomes:
        assert isinstance(outcome, Deferred)
        assert not outcome.spends_attempt
        assert outcome.until - datetime.now(UTC) > timedelta(seconds=115)
    assert len(push.seen) == 1
    [(host, held_back)] = channel.held_back().items()
    assert (host, held_back, channel.pauses()[host]) == (f"http://127.0.0.1:{port}", True, 1)


async def test_a_host_where_nobody_is_costs_five_attempts_and_no_more(serve: Serve) -> None:
    channel = plugin.create([KEY], SUBJECT, EndpointPolicy.parse("127.0.0.1:9"), SystemClock())
    await channel.open()
    outcomes = [await channel.send(message(channel, 9)) for _ in range(20)]
    await channel.close()
    spent = [outcome for outcome in outcomes if isinstance(outcome, Deferred) and outcome.spends_attempt]
    assert [type(outcome) for outcome in outcomes] == [Deferred] * 20
    assert len(spent) == 4, "the fifth shows that it is the host's fault"


async def test_one_token_serves_many_messages(channel: WebPushChannel, service: tuple[PushService, int]) -> None:
    push, port = service
    outcomes = await asyncio.gather(*(channel.send(message(channel, port)) for _ in range(300)))
    assert {type(outcome) for outcome in outcomes} == {Delivered}
    assert len({headers["authorization"] for headers, _ in push.seen}) <= 2
    assert len({body for _, body in push.seen}) == 300


async def test_too_large_for_the_service_is_shortened_once(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    push, port = service
    push.answers = ["413 Too Large\r\n"]
    long = replace(CONTENT, body="word " * 400)
    assert isinstance(await channel.send(message(channel, port, long)), Delivered)
    assert len(push.seen[1][1]) < 1200 < len(push.seen[0][1])
    push.answers = ["413 Too Large\r\n", "413 Too Large\r\n"]
    assert isinstance(await channel.send(message(channel, port, long)), Refused)
    assert len(push.seen) == 4


async def test_a_key_added_later_is_used(channel: WebPushChannel, service: tuple[PushService, int]) -> None:
    _, port = service
    later = generate_key(datetime(2026, 2, 1, tzinfo=UTC))
    sent = message(channel, port)
    sent = structs.replace(sent, target=structs.replace(sent.target, vapid_key_id=later.id))
    refused = await channel.send(sent)
    assert isinstance(refused, Refused)
    assert refused.alert
    channel.set_keys([later, KEY])
    assert isinstance(await channel.send(sent), Delivered)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"endpoint": "http://127.0.0.1:1/x"}, "the endpoint is not allowed"),
        ({"p256dh": bytes(65)}, "the subscription's key is not a point"),
    ],
)
async def test_a_stored_subscription_that_is_wrong_is_refused(
    channel: WebPushChannel, service: tuple[PushService, int], change: dict[str, str], why: str
) -> None:
    push, port = service
    sent = message(channel, port)
    outcome = await channel.send(structs.replace(sent, target=structs.replace(sent.target, **change)))
    assert isinstance(outcome, Refused)
    assert outcome.why.startswith(why)
    assert push.seen == []


async def test_a_message_too_long_for_one_record_is_refused(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    outcome = await channel.send(structs.replace(message(channel, service[1]), payload=bytes(3994)))
    assert isinstance(outcome, Refused)


async def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TIDINGS_VAPID_SUBJECT"):
        WebPushChannel([KEY], "mailto:ops@localhost", EndpointPolicy(), SystemClock())
    with pytest.raises(ConfigError, match="TIDINGS_PUSH_CA_FILE: cannot read"):
        await WebPushChannel([KEY], SUBJECT, EndpointPolicy(), SystemClock(), 0, tmp_path / "none.pem").open()
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="TIDINGS_PUSH_CA_FILE: is not"):
        await WebPushChannel([KEY], SUBJECT, EndpointPolicy(), SystemClock(), 2, broken).open()


async def test_sending_before_opening_is_a_bug() -> None:
    channel = WebPushChannel([KEY], SUBJECT, EndpointPolicy(), SystemClock())
    with pytest.raises(RuntimeError, match="not open"):
        await channel.send(message(channel, 1))


async def test_closing_lets_what_is_in_flight_end(serve: Serve, read_request: ReadRequest) -> None:
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await let_go.wait()
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    port = await serve(handler)
    channel = WebPushChannel([KEY], SUBJECT, EndpointPolicy.parse(f"127.0.0.1:{port}"), SystemClock())
    await channel.open()
    send = asyncio.create_task(channel.send(message(channel, port)))
    await arrived.wait()
    closing = asyncio.create_task(channel.close())
    let_go.set()
    assert isinstance(await send, Delivered)
    await closing
