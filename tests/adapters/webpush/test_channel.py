"""The Web Push channel from content to outcome, with and without sender processes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs
from py_vapid import Vapid02

from tidings.channels.webpush import EndpointPolicy, WebPushChannel, generate_key
from tidings.channels.webpush.payload import build_topic
from tidings.errors import ConfigError
from tidings.model.alert import AlertName
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import Channel, ComposeContext
from tidings.ports.clock import SystemClock

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[int]]
ReadRequest = Callable[[asyncio.StreamReader], Awaitable[tuple[dict[str, str], bytes]]]

KEY = generate_key(datetime(2026, 1, 1, tzinfo=UTC))
DEVICE = ec.derive_private_key(7, ec.SECP256R1())
POINT = DEVICE.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
AUTH = bytes(range(16))
SUBJECT = "mailto:ops@example.com"
CONTENT = RenderedMessage("Jazz night starts later", "7:00 PM → 8:30 PM", "https://tickets.example.com/e/1", "en")


class PushService:
    """A push service that records requests. Each request consumes one entry of `answers`; afterwards it answers 201."""

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
    web_push = WebPushChannel([KEY], SUBJECT, policy, SystemClock(), sender_processes=request.param)
    await web_push.open()
    yield web_push
    await web_push.close()


def message(
    channel: Channel,
    port: int,
    content: RenderedMessage = CONTENT,
    *,
    device: str = "x",
    expires_in: timedelta | None = None,
) -> OutboundMessage:
    target = PushSubscription("s-1", "u-1", f"http://127.0.0.1:{port}/push/{device}", POINT, AUTH, KEY.id)
    expires_at = datetime.now(UTC) + (expires_in or timedelta(hours=2))
    context = ComposeContext("n-1", "d-1", "u-1", Category("NEWS", "News"), "event:7", expires_at, "UTC")
    payload = channel.compose(content, context)
    return OutboundMessage("d-1", "n-1", target, payload, Priority.HIGH, expires_at, 1, "event:7")


async def test_a_device_can_decrypt_the_message(channel: WebPushChannel, service: tuple[PushService, int]) -> None:
    push, port = service
    sent = message(channel, port)
    assert await channel.send(sent) == Accepted("accepted by the push service", 201)
    assert push.decrypted(0) == json.loads(sent.payload)
    headers = push.seen[0][0]
    assert headers["content-encoding"] == "aes128gcm"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["urgency"] == "high"
    assert headers["topic"] == build_topic("event:7")
    assert 7190 <= int(headers["ttl"]) <= 7200
    assert int(headers["content-length"]) == len(push.seen[0][1])
    assert "transfer-encoding" not in headers
    assert "crypto-key" not in headers
    assert Vapid02.verify(headers["authorization"].replace(", k=", ",k="))


async def test_the_ttl_is_the_time_left_and_an_expired_message_is_not_sent(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    push, port = service
    assert isinstance(await channel.send(message(channel, port, expires_in=timedelta(seconds=3.9))), Accepted)
    assert int(push.seen[0][0]["ttl"]) == 3
    late = await channel.send(message(channel, port, expires_in=timedelta(seconds=0.9)))
    assert late == PermanentFailure("expired before it was sent", is_expired=True)
    assert len(push.seen) == 1
    shown = push.decrypted(0)
    assert isinstance(shown, dict)
    assert 2 < shown["notification"]["data"]["expiresAt"] / 1000 - datetime.now(UTC).timestamp() < 4


async def test_every_kind_of_outcome_is_returned(channel: WebPushChannel, service: tuple[PushService, int]) -> None:
    push, port = service
    push.answers = ["410 Gone\r\n", "400 Bad\r\n", "500 Oops\r\n", "201 Created\r\n", "429 Slow\r\nRetry-After: 30\r\n"]
    outcomes: list[Outcome] = [await channel.send(message(channel, port)) for _ in range(5)]
    assert [type(outcome) for outcome in outcomes] == [
        InvalidTarget,
        PermanentFailure,
        RetryLater,
        Accepted,
        RetryLater,
    ]
    failed, throttled = outcomes[2], outcomes[4]
    assert isinstance(throttled, RetryLater)
    assert isinstance(failed, RetryLater)
    assert (throttled.counts_as_attempt, failed.counts_as_attempt) == (False, True)
    assert throttled.until.tzinfo is not None
    assert throttled.until - datetime.now(UTC) > timedelta(seconds=25)


async def test_a_throttled_device_receives_no_other_message(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    push, port = service
    push.answers = ["429 Slow\r\nRetry-After: 30\r\n"]
    throttled = await channel.send(message(channel, port))
    again = await channel.send(message(channel, port))
    assert isinstance(throttled, RetryLater)
    assert isinstance(again, RetryLater)
    assert (again.until, again.counts_as_attempt, len(push.seen)) == (throttled.until, False, 1)
    assert isinstance(await channel.send(message(channel, port, device="y")), Accepted)


async def test_no_request_is_sent_before_a_services_retry_after(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    push, port = service
    push.answers = ["503 Away\r\nRetry-After: 120\r\n"]
    outcomes = [await channel.send(message(channel, port, device=str(number))) for number in range(3)]
    for outcome in outcomes:
        assert isinstance(outcome, RetryLater)
        assert not outcome.counts_as_attempt
        assert outcome.until - datetime.now(UTC) > timedelta(seconds=115)
    assert len(push.seen) == 1
    assert [host for host, is_open in channel.open_circuits().items() if is_open] == [f"http://127.0.0.1:{port}"]


async def test_an_unreachable_host_costs_at_most_five_attempts(serve: Serve) -> None:
    channel = WebPushChannel([KEY], SUBJECT, EndpointPolicy.parse("127.0.0.1:9"), SystemClock())
    await channel.open()
    outcomes = [await channel.send(message(channel, 9)) for _ in range(20)]
    await channel.close()
    spent = [outcome for outcome in outcomes if isinstance(outcome, RetryLater) and outcome.counts_as_attempt]
    assert [type(outcome) for outcome in outcomes] == [RetryLater] * 20
    assert len(spent) == 4, "the fifth failure is attributed to the host"


async def test_one_vapid_token_is_reused_for_many_messages(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    push, port = service
    outcomes = await asyncio.gather(*(channel.send(message(channel, port)) for _ in range(300)))
    assert {type(outcome) for outcome in outcomes} == {Accepted}
    assert len({headers["authorization"] for headers, _ in push.seen}) <= 2
    assert len({body for _, body in push.seen}) == 300


class SizeLimitedService(PushService):
    """Answers 413 to requests with a body over `limit` bytes."""

    limit = 1024

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            headers, body = await self.read_request(reader)
            self.seen.append((headers, body))
            answer = "413 Content Too Large" if len(body) > self.limit else "201 Created"
            writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.parametrize("limit", [1024, 600])
async def test_a_message_is_shrunk_to_what_the_service_takes_and_the_size_is_remembered(
    serve: Serve, read_request: ReadRequest, limit: int
) -> None:
    push = SizeLimitedService(read_request)
    push.limit = limit
    port = await serve(push.handle)
    channel = WebPushChannel([KEY], SUBJECT, EndpointPolicy.parse(f"127.0.0.1:{port}"), SystemClock())
    await channel.open()
    long = replace(CONTENT, title="Title " * 60, body="word " * 400)
    assert isinstance(await channel.send(message(channel, port, long)), Accepted)
    tried = len(push.seen)
    outcomes = [await channel.send(message(channel, port, long, device=str(number))) for number in range(3)]
    await channel.close()
    assert {type(outcome) for outcome in outcomes} == {Accepted}
    assert len(push.seen) == tried + 3, "the size is known now"
    shown = push.decrypted(-1)
    assert isinstance(shown, dict)
    assert shown["notification"]["title"]
    assert shown["notification"]["body"]


async def test_a_service_that_takes_no_size_is_asked_once_per_message_afterwards(
    serve: Serve, read_request: ReadRequest
) -> None:
    push = SizeLimitedService(read_request)
    push.limit = 10
    port = await serve(push.handle)
    channel = WebPushChannel([KEY], SUBJECT, EndpointPolicy.parse(f"127.0.0.1:{port}"), SystemClock())
    await channel.open()
    first = await channel.send(message(channel, port))
    tried = len(push.seen)
    second = await channel.send(message(channel, port))
    await channel.close()
    assert isinstance(first, PermanentFailure)
    assert isinstance(second, PermanentFailure)
    assert not first.is_target_suspect, "the device is not the cause"
    assert len(push.seen) == tried + 1


class RecordedAlerts:
    """An `AlertSink` that remembers the alerts that are raised."""

    def __init__(self) -> None:
        self.raised: dict[tuple[AlertName, str], str] = {}

    def raise_alert(self, name: AlertName, subject: str, detail: str, *, lasts: timedelta | None = None) -> None:
        self.raised[name, subject] = detail

    def resolve_alert(self, name: AlertName, subject: str) -> None:
        self.raised.pop((name, subject), None)


@pytest.fixture(params=[0, 1], ids=["this process", "one process"])
async def alerted(
    request: pytest.FixtureRequest, service: tuple[PushService, int]
) -> AsyncIterator[tuple[WebPushChannel, RecordedAlerts]]:
    alerts = RecordedAlerts()
    policy = EndpointPolicy.parse(f"127.0.0.1:{service[1]}")
    channel = WebPushChannel([KEY], SUBJECT, policy, SystemClock(), request.param, alerts=alerts)
    await channel.open()
    yield channel, alerts
    await channel.close()


async def test_a_refused_token_is_replaced_and_the_message_accepted(
    alerted: tuple[WebPushChannel, RecordedAlerts], service: tuple[PushService, int]
) -> None:
    (channel, alerts), (push, port) = alerted, service
    push.answers = ["401 Unauthorized\r\n"]
    assert isinstance(await channel.send(message(channel, port)), Accepted)
    first, second = [headers["authorization"] for headers, _ in push.seen]
    assert first != second
    assert alerts.raised == {}


async def test_a_host_that_refuses_the_fresh_token_too_is_held_back_until_it_accepts(
    alerted: tuple[WebPushChannel, RecordedAlerts], service: tuple[PushService, int]
) -> None:
    (channel, alerts), (push, port) = alerted, service
    yesterday = format_datetime(datetime.now(UTC) - timedelta(hours=25), usegmt=True)
    refusal = f"401 Unauthorized\r\nDate: {yesterday}\r\n"
    push.answers = [refusal, refusal]
    outcomes = [await channel.send(message(channel, port, device=str(number))) for number in range(3)]
    for outcome in outcomes:
        assert isinstance(outcome, RetryLater)
        assert not outcome.counts_as_attempt
    assert len(push.seen) == 2, "a fresh token once, then nothing is sent"
    host = f"http://127.0.0.1:{port}"
    assert "25 h 0 min ahead of" in alerts.raised[AlertName.PUSH_TOKEN_REFUSED, host]
    assert "25 h 0 min ahead of" in alerts.raised[AlertName.CLOCK_OFF, f"{socket.gethostname()}, {host}"]
    probe_at = min(outcome.until for outcome in outcomes if isinstance(outcome, RetryLater))
    assert probe_at - datetime.now(UTC) < timedelta(seconds=10)


async def test_a_key_added_later_is_used(channel: WebPushChannel, service: tuple[PushService, int]) -> None:
    _, port = service
    later = generate_key(datetime(2026, 2, 1, tzinfo=UTC))
    sent = message(channel, port)
    sent = structs.replace(sent, target=structs.replace(sent.target, vapid_key_id=later.id))
    refused = await channel.send(sent)
    assert isinstance(refused, PermanentFailure)
    assert refused.operator_alert
    channel.set_keys([later, KEY])
    assert isinstance(await channel.send(sent), Accepted)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"endpoint": "http://127.0.0.1:1/x"}, "the endpoint is not allowed"),
        ({"p256dh": bytes(65)}, "the subscription's key is not a point"),
    ],
)
async def test_an_invalid_stored_subscription_is_a_permanent_failure(
    channel: WebPushChannel, service: tuple[PushService, int], change: dict[str, str], why: str
) -> None:
    push, port = service
    sent = message(channel, port)
    outcome = await channel.send(structs.replace(sent, target=structs.replace(sent.target, **change)))
    assert isinstance(outcome, PermanentFailure)
    assert outcome.why.startswith(why)
    assert push.seen == []


async def test_a_message_too_long_for_one_record_is_a_permanent_failure(
    channel: WebPushChannel, service: tuple[PushService, int]
) -> None:
    outcome = await channel.send(structs.replace(message(channel, service[1]), payload=bytes(3994)))
    assert isinstance(outcome, PermanentFailure)


async def test_invalid_settings_are_named(tmp_path: Path) -> None:
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


async def test_closing_waits_for_sends_in_flight(serve: Serve, read_request: ReadRequest) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await release.wait()
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    port = await serve(handler)
    channel = WebPushChannel([KEY], SUBJECT, EndpointPolicy.parse(f"127.0.0.1:{port}"), SystemClock())
    await channel.open()
    send = asyncio.create_task(channel.send(message(channel, port)))
    await arrived.wait()
    closing = asyncio.create_task(channel.close())
    release.set()
    assert isinstance(await send, Accepted)
    await closing
