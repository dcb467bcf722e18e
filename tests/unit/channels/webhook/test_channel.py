"""The webhook channel against a real endpoint."""

import socket
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs
from standardwebhooks import Webhook

from tidings.channels.http.transport import HttpTransport, TransportLimits
from tidings.channels.webhook import WebhookChannel, WebhookSettings, create_webhook_channel, generate_secret, plugin
from tidings.channels.webhook.response_policy import DEFAULT_RETRY_POLICY
from tidings.config.settings import Settings
from tidings.errors import ConfigError
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted, InvalidTarget, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.ports.clock import SystemClock
from tidings.testing.clock import FrozenClock
from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

SECRET = generate_secret()


class Endpoint:
    """An endpoint that answers what a test sets, and a channel that posts to it."""

    def __init__(self) -> None:
        self.answer: Answer = Reply(204)
        self.server = HttpServer(lambda _: self.answer)
        self.clock = FrozenClock()
        self.channel = self.create_channel()

    @property
    def requests(self) -> list[ReceivedRequest]:
        return self.server.requests

    async def open(self) -> None:
        await self.server.open()
        self.channel = self.create_channel()

    def create_channel(self, timeout: float = 15) -> WebhookChannel:
        return WebhookChannel(
            HttpTransport(limits=TransportLimits(total_timeout=timeout)),
            self.clock,
            trusted_hosts=frozenset({("127.0.0.1", self.server.port)}),
            jitter=lambda: 0.0,
        )

    def make_message(
        self,
        attempt: int = 1,
        *,
        url: str | None = None,
        secrets: tuple[str, ...] = (SECRET,),
        delivery_id: str = "d-1",
    ) -> OutboundMessage:
        target = ContactPoint("c-1", "ana", "webhook", url or f"{self.server.url}/in?key=a%2Fb", secrets=secrets)
        expires_at = self.clock.now() + timedelta(days=2)
        return OutboundMessage(
            delivery_id, "n-1", target, b'{"a":"\xc3\xa9"}', Priority.NORMAL, expires_at, attempt, "k"
        )

    async def send(self, attempt: int = 1) -> object:
        return await self.channel.send(self.make_message(attempt))


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    await endpoint.open()
    yield endpoint
    await endpoint.channel.close()
    await endpoint.server.close()


async def test_c72_c73_what_is_sent_is_what_was_signed_on_every_attempt() -> None:
    clock = SystemClock()
    old, new = generate_secret(), generate_secret()
    async with HttpServer(lambda _: Reply(200)) as server:
        channel = create_webhook_channel(WebhookSettings(enabled=True, trusted_hosts=(server.authority,)), clock)
        assert channel is not None
        target = ContactPoint("c-1", "ana", "webhook", f"{server.url}/in", secrets=(new, old))
        message = OutboundMessage(
            "0199-d", "n-1", target, b'{ "a": 1 }', Priority.HIGH, clock.now() + timedelta(days=1), 1, "k"
        )
        for attempt in (1, 2):
            repeated = structs.replace(message, attempt=attempt)
            assert await channel.send(repeated) == Accepted("accepted by the endpoint", 200, "webhook", "0199-d")
        await channel.close()
    assert len(server.requests) == 2
    for request in server.requests:
        assert request.headers["content-type"] == "application/json"
        for secret in (old, new):
            assert Webhook(secret).verify(request.body, dict(request.headers)) == {"a": 1}


async def test_c72_a_retry_has_the_same_id_and_a_new_signature(endpoint: Endpoint) -> None:
    endpoint.answer = Reply(500)
    await endpoint.send(1)
    endpoint.clock.advance(5)
    await endpoint.send(2)
    first, second = (request.headers for request in endpoint.requests)
    assert first["webhook-id"] == second["webhook-id"] == "d-1"
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 5
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_success(endpoint: Endpoint, status: int) -> None:
    endpoint.answer = Reply(status)
    assert isinstance(await endpoint.send(), Accepted)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 401, 404, 408, 409, 500, 501, 503])
async def test_every_other_status_is_retried(endpoint: Endpoint, status: int) -> None:
    endpoint.answer = Reply(status)
    outcome = await endpoint.send()
    assert isinstance(outcome, RetryLater)
    assert (outcome.until, outcome.status) == (endpoint.clock.now() + timedelta(seconds=5), status)
    assert outcome.counts_as_attempt


async def test_c74_410_disables_the_endpoint(endpoint: Endpoint) -> None:
    endpoint.answer = Reply(410)
    assert await endpoint.send() == InvalidTarget(
        "the endpoint answered 410: it wants no more messages", 410, action="disable"
    )


@pytest.mark.parametrize("answer", [Hang(), Disconnect()])
async def test_a_message_without_an_answer_is_retried(endpoint: Endpoint, answer: Answer) -> None:
    endpoint.answer = answer
    endpoint.channel = endpoint.create_channel(timeout=0.5)
    outcome = await endpoint.send()
    assert isinstance(outcome, RetryLater)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [429, 502, 504])
@pytest.mark.parametrize(("header", "wait"), [({"Retry-After": "90"}, 90), ({}, 60), ({"Retry-After": "1"}, 5)])
async def test_an_endpoint_that_asks_for_it_is_slowed_down(
    endpoint: Endpoint, status: int, header: dict[str, str], wait: int
) -> None:
    endpoint.answer = Reply(status, headers=header)
    outcome = await endpoint.send()
    assert isinstance(outcome, RetryLater)
    assert outcome.until == endpoint.clock.now() + timedelta(seconds=wait)


async def test_other_messages_wait_too_without_spending_an_attempt(endpoint: Endpoint) -> None:
    endpoint.answer = Reply(429, headers={"Retry-After": "90"})
    await endpoint.send()
    endpoint.answer = Reply(200)
    deferred = await endpoint.channel.send(endpoint.make_message(delivery_id="d-2"))
    assert deferred == RetryLater(
        endpoint.clock.now() + timedelta(seconds=90), "the endpoint asked for fewer requests", counts_as_attempt=False
    )
    assert len(endpoint.requests) == 1
    endpoint.clock.advance(90)
    assert isinstance(await endpoint.channel.send(endpoint.make_message(delivery_id="d-2")), Accepted)


async def test_a_redirect_to_a_private_address_is_not_followed(endpoint: Endpoint) -> None:
    async with HttpServer(lambda _: Reply(200)) as private:
        endpoint.answer = Reply(301, headers={"Location": f"{private.url}/admin"})
        outcome = await endpoint.send()
    assert isinstance(outcome, RetryLater)
    assert outcome.why == (
        "the endpoint answered 301, a redirect to 127.0.0.1, which is not a public address, which is not followed"
    )
    assert private.requests == []


async def test_an_endpoint_with_a_private_address_gets_nothing(endpoint: Endpoint) -> None:
    async with HttpServer(lambda _: Reply(200)) as private:
        message = endpoint.make_message(url=f"https://localhost:{private.port}/")
        outcome = await endpoint.channel.send(message)
    assert isinstance(outcome, RetryLater)
    assert "no public address" in outcome.why
    assert private.requests == []


@pytest.mark.parametrize("url", ["http://hooks.example.com/", "https://user:pw@hooks.example.com/", "mailto:x@y.z"])
async def test_an_invalid_endpoint_is_refused_when_stored_and_when_sent(endpoint: Endpoint, url: str) -> None:
    with pytest.raises(ValueError, match=r"must |user"):
        plugin.parse_address(url, Settings())
    outcome = await endpoint.channel.send(endpoint.make_message(url=url))
    assert isinstance(outcome, PermanentFailure)
    assert outcome.is_target_suspect


@pytest.mark.parametrize("secrets", [(), ("whsec_x",), ("whsec_short",)])
async def test_nothing_is_sent_unsigned(endpoint: Endpoint, secrets: tuple[str, ...]) -> None:
    outcome = await endpoint.channel.send(endpoint.make_message(secrets=secrets))
    assert isinstance(outcome, PermanentFailure)
    assert endpoint.requests == []


async def test_the_default_schedule_lasts_24_hours() -> None:
    start = now = datetime.fromisoformat("2026-11-22T12:00:00+00:00")
    offsets = [timedelta()]
    for attempt in range(1, DEFAULT_RETRY_POLICY.max_attempts):
        outcome = DEFAULT_RETRY_POLICY.retry_or_give_up("down", attempt, now, 0.0)
        assert isinstance(outcome, RetryLater)
        now = outcome.until
        offsets.append(now - start)
    seconds, minutes, hours = (5,), (5, 30), (2, 5, 10, 14, 20, 24)
    assert offsets == [
        timedelta(),
        *(timedelta(seconds=n) for n in seconds),
        *(timedelta(minutes=n) for n in minutes),
        *(timedelta(hours=n) for n in hours),
    ]
    last = DEFAULT_RETRY_POLICY.retry_or_give_up("down", 10, now, 0.0)
    assert last == PermanentFailure("gave up after 10 attempts: down")


async def test_settings_are_checked(tmp_path: Path) -> None:
    clock = SystemClock()
    assert create_webhook_channel(WebhookSettings(enabled=False), clock) is None
    with pytest.raises(ConfigError, match=r"^TIDINGS_WEBHOOK__TRUSTED_HOSTS: "):
        create_webhook_channel(WebhookSettings(enabled=True, trusted_hosts=("https://x",)), clock)
    with pytest.raises(ConfigError, match=r"^TIDINGS_WEBHOOK__CA_FILE: cannot read"):
        create_webhook_channel(WebhookSettings(enabled=True, ca_file=tmp_path / "missing.pem"), clock)


async def test_an_unreachable_endpoint_is_retried() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        clock = FrozenClock()
        authority = f"127.0.0.1:{closed.getsockname()[1]}"
        channel = create_webhook_channel(
            WebhookSettings(enabled=True, trusted_hosts=(authority,)), clock, jitter=lambda: 0.0
        )
        assert channel is not None
        target = ContactPoint("c-1", "ana", "webhook", f"http://{authority}/", secrets=(SECRET,))
        message = OutboundMessage("d-1", "n-1", target, b"{}", Priority.HIGH, clock.now() + timedelta(days=2), 2, "k")
        outcome = await channel.send(message)
        await channel.close()
    assert outcome == RetryLater(clock.now() + timedelta(minutes=4, seconds=55), "could not connect to 127.0.0.1")
