"""The contract of channels, over every built-in channel with a fake of its provider on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from tidings.channels import chat, email, inapp, sms, webhook, webpush
from tidings.channels.chat import ChatSettings, create_chat_channel
from tidings.channels.email.channel import EmailChannel
from tidings.channels.email.settings import EmailSettings
from tidings.channels.email.smtp_connection import SmtpTimeouts
from tidings.channels.http.transport import HttpTransport, TransportLimits
from tidings.channels.inapp import InAppChannel
from tidings.channels.sms import SmsSettings, create_sms_channel
from tidings.channels.webhook import WebhookChannel, generate_secret
from tidings.channels.webpush import EndpointPolicy, WebPushChannel, generate_key
from tidings.channels.webpush import channel as webpush_module
from tidings.channels.webpush.transport import Transport
from tidings.channels.webpush.transport import TransportLimits as PushLimits
from tidings.errors import BackendError, ValidationFailed
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import Target
from tidings.model.inbox import InboxItem
from tidings.model.subscription import PushSubscription
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.channel_contract import ChannelContract, ChannelHarness
from tidings.testing.fake_chats import FakeChats
from tidings.testing.fake_providers import (
    AcceptMessage,
    Behaviour,
    FakeSmsProvider,
    HangConnection,
    LimitRate,
    LoseReply,
    RefuseMessage,
)
from tidings.testing.fake_relay import FakeRelay
from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

#: seconds after which a channel under test gives up
DEADLINE = 1.0


class EmailHarness(ChannelHarness):
    name = "email"
    address = "Ana@example.com"
    wrong_addresses = ("", "no address", "a@b", "a@b.example\r\nRCPT TO:<x@y.example>")
    secrets = ("pa55word", "s3cret")

    def __init__(self, relay: FakeRelay) -> None:
        self.relay, self.clock, self.plugin = relay, FrozenClock(), email.plugin
        settings = EmailSettings(
            smtp_urls=(f"smtp://shop:pa55word@127.0.0.1:{relay.port}",),
            sender="Shop <news@shop.example>",
            connections=3,
        )
        timeouts = SmtpTimeouts(connect=DEADLINE, command=DEADLINE, content=DEADLINE)
        self.channel = EmailChannel(
            settings, self.clock, public_url="https://shop.example", secret_key="s3cret" * 6, timeouts=timeouts
        )

    def set_behaviour(self, behaviour: Behaviour) -> None:
        self.relay.set_behaviour(behaviour)

    def count_accepted(self) -> int:
        return len(self.relay.messages)

    def count_requests(self) -> int:
        return self.relay.transactions


class TestEmailChannel(ChannelContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[ChannelHarness]:
        async with FakeRelay() as relay:
            yield EmailHarness(relay)


class SmsHarness(ChannelHarness):
    name = "sms"
    address = "+16502530000"
    wrong_addresses = ("", "0123", "+1", "four")
    secrets = ("fake-token",)

    def __init__(self, provider: FakeSmsProvider) -> None:
        self.provider, self.clock, self.plugin = provider, FrozenClock(), sms.plugin
        settings = SmsSettings(
            url=SecretStr(provider.url_with_credentials), sender="+15005550006", countries=("US",), timeout=DEADLINE
        )
        channel = create_sms_channel(settings, self.clock, jitter=lambda: 0.0)
        assert channel is not None
        self.channel = channel

    def set_behaviour(self, behaviour: Behaviour) -> None:
        # 21614: not a mobile number
        self.provider.set_behaviour(
            self.address, RefuseMessage(21614) if isinstance(behaviour, RefuseMessage) else behaviour
        )

    def count_accepted(self) -> int:
        return len(self.provider.messages)

    def count_requests(self) -> int:
        return len(self.provider.requests)


class TestSmsChannel(ChannelContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[ChannelHarness]:
        async with FakeSmsProvider() as provider:
            yield SmsHarness(provider)


class HttpHarness(ChannelHarness):
    """A channel that posts to an endpoint, which may receive a message again: it knows it by its id."""

    repeats_lost = True
    #: status of a refusal, and of an acceptance
    refusal: ClassVar[int] = 410
    acceptance: ClassVar[int] = 201

    def __init__(self, server: HttpServer) -> None:
        self.server, self.taken = server, 0
        self.behaviour: Behaviour = AcceptMessage()

    def respond(self, _request: ReceivedRequest) -> Answer:
        match self.behaviour:
            case RefuseMessage():
                return Reply(self.refusal)
            case LimitRate(retry_after=seconds):
                return Reply(429, headers={"Retry-After": str(seconds)})
            case HangConnection():
                return Hang()
            case AcceptMessage() | LoseReply():
                self.taken += 1
                return Disconnect() if isinstance(self.behaviour, LoseReply) else Reply(self.acceptance)

    def set_behaviour(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def count_accepted(self) -> int:
        return self.taken

    def count_requests(self) -> int:
        return len(self.server.requests)


class WebhookHarness(HttpHarness):
    name = "webhook"
    limit_spends_attempt = True
    wrong_addresses = ("", "ftp://shop.example/", "http://127.0.0.1/", "https://user:pass@shop.example/")

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.clock, self.plugin = FrozenClock(), webhook.plugin
        secret = generate_secret()
        self.secrets = (secret, secret.removeprefix("whsec_"))
        self.address = f"{server.url}/in"
        self.channel = WebhookChannel(
            HttpTransport(limits=TransportLimits(total_timeout=DEADLINE)),
            self.clock,
            trusted_hosts=frozenset({("127.0.0.1", server.port)}),
            jitter=lambda: 0.0,
        )

    def create_target(self) -> Target:
        return ContactPoint("c-1", "ana", self.name, self.address, secrets=self.secrets[:1])


class TestWebhookChannel(ChannelContract):
    @pytest.fixture
    async def harness(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChannelHarness]:
        async with HttpServer(lambda request: found.respond(request)) as server:
            monkeypatch.setenv("TIDINGS_WEBHOOK__TRUSTED_HOSTS", server.authority)
            found = WebhookHarness(server)
            yield found


KEY = generate_key(datetime(2026, 1, 1, tzinfo=UTC))
POINT = (
    ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)


class WebPushHarness(HttpHarness):
    name = "webpush"
    wrong_addresses = ("", "https://push.example/x")

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.clock, self.plugin = FrozenClock(), webpush.plugin
        self.address = f"{server.url}/push/c4pability"
        self.secrets = ("c4pability",)
        policy = EndpointPolicy.parse(server.authority)
        self.channel = WebPushChannel([KEY], "mailto:ops@shop.example", policy, self.clock, jitter=lambda: 0.0)

    def create_target(self) -> Target:
        return PushSubscription("s-1", "ana", self.address, POINT, bytes(range(16)), KEY.id)


class TestWebPushChannel(ChannelContract):
    @pytest.fixture
    async def harness(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChannelHarness]:
        limits = PushLimits(total_timeout=DEADLINE)
        monkeypatch.setattr(webpush_module, "Transport", partial(Transport, limits=limits))
        async with HttpServer(lambda request: found.respond(request)) as server:
            found = WebPushHarness(server)
            yield found

    def test_an_address_has_one_form(self, harness: ChannelHarness) -> None:
        """A subscription is no text: the browser registers it over a route of its own."""
        with pytest.raises(ValueError, match="browser"):
            harness.plugin.parse_address(harness.address, harness.settings)


class ChatHarness(ChannelHarness):
    name = "chat"
    address = "slack://T12345/B12345/abcdefghijklmnop"
    wrong_addresses = ("", "slack://", "mailto://user:pass@shop.example", "json://127.0.0.1/")
    secrets = ("abcdefghijklmnop",)

    def __init__(self, services: FakeChats) -> None:
        self.services, self.plugin = services, chat.plugin
        self.clock = self._frozen = FrozenClock()
        channel = create_chat_channel(
            ChatSettings(
                enabled=True,
                trusted_hosts=(services.server.authority,),
                slack_hooks_url=services.url,
                timeout=DEADLINE,
            ),
            self.clock,
            jitter=lambda: 0.0,
            sleep=self._sleep,
        )
        assert channel is not None
        self.channel = channel

    async def _sleep(self, seconds: float) -> None:
        self._frozen.advance(seconds)

    def set_behaviour(self, behaviour: Behaviour) -> None:
        self.services.set_behaviour(Reply(404, b"no_service") if isinstance(behaviour, RefuseMessage) else behaviour)

    def count_accepted(self) -> int:
        return len(self.services.messages)

    def count_requests(self) -> int:
        return len(self.services.server.requests)


class TestChatChannel(ChannelContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[ChannelHarness]:
        async with FakeChats() as services:
            yield ChatHarness(services)


class InAppHarness(ChannelHarness):
    """The provider is the store, which ends a statement without a response itself."""

    name = "inapp"
    wrong_addresses = ("", "ana")
    #: a repeat has no effect: an item is stored once per notification and user
    repeats_lost = True

    def __init__(self) -> None:
        self.clock, self.plugin = FrozenClock(), inapp.plugin
        self.behaviour: Behaviour = AcceptMessage()
        self.stored: list[InboxItem] = []
        self.requests = 0
        self.channel = InAppChannel(self._deliver, self.clock)

    async def _deliver(self, item: InboxItem) -> None:
        self.requests += 1
        match self.behaviour:
            case RefuseMessage():
                raise ValidationFailed("The text cannot be stored.")
            case LimitRate(retry_after=seconds):
                raise BackendError("The database is unavailable.", retry_after=seconds or 1)
            case HangConnection():
                await asyncio.sleep(DEADLINE)
                raise BackendError("The database does not respond.")
            case AcceptMessage() | LoseReply():
                self.stored.append(item)
                if isinstance(self.behaviour, LoseReply):
                    raise BackendError("The connection ended during the commit.")

    def set_behaviour(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def count_accepted(self) -> int:
        return len(self.stored)

    def count_requests(self) -> int:
        return self.requests


class TestInAppChannel(ChannelContract):
    @pytest.fixture
    def harness(self) -> ChannelHarness:
        return InAppHarness()
