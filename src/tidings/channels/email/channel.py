"""The e-mail channel: composes messages and sends each to one address, over the first relay that takes it."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tidings.channels.email.addresses import parse_address, to_ascii_domain
from tidings.channels.email.composer import EmailComposer, EmailPayload
from tidings.channels.email.dkim_signer import DkimSigner
from tidings.channels.email.relay import Relay, parse_relay
from tidings.channels.email.relay_provider import RelayProvider
from tidings.channels.email.settings import SHORT_NAME, EmailSettings
from tidings.channels.email.smtp_connection import SmtpTimeouts
from tidings.channels.email.smtp_exchange import Envelope
from tidings.channels.email.smtp_pool import PoolLimits, SmtpPool
from tidings.channels.providers.failover import SendContext
from tidings.channels.providers.router import ProviderRouter
from tidings.channels.providers.weights import complete_weights
from tidings.errors import ConfigError, ValidationFailed
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage, Target
from tidings.model.outcome import InvalidTarget, Outcome
from tidings.model.provider import ProviderStatus
from tidings.model.template import Category, RenderedMessage
from tidings.ports.alerts import AlertSink
from tidings.ports.channel import ComposeContext, Destination
from tidings.ports.clock import Clock


class EmailChannel:
    """Implements `tidings.ports.channel.Channel` for e-mail."""

    name = "email"

    def __init__(
        self,
        settings: EmailSettings,
        clock: Clock,
        *,
        public_url: str,
        secret_key: str,
        alerts: AlertSink | None = None,
        timeouts: SmtpTimeouts | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """public_url: base of unsubscribe links unless the settings have one. secret_key: signs them.

        `alerts` are for operators. `jitter` returns a random number, 0 ≤ n < 1. Raises ConfigError for an invalid
        relay.
        """
        self.settings = settings
        self._clock = clock
        self._alerts = alerts
        self._timeouts = timeouts
        self._jitter = jitter
        self._relays = parse_relays(settings)
        self._composer = EmailComposer(settings, public_url=public_url, secret_key=secret_key, clock=clock)
        self._signer: DkimSigner | None = None
        self._providers: list[RelayProvider] = []
        self._router: ProviderRouter[Envelope] | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Read the DKIM key. Connections are opened by the first messages. Raises ConfigError for an invalid key."""
        if self._router is not None:
            return
        settings = self.settings
        domain = to_ascii_domain(settings.sender_address).rpartition("@")[2]
        if settings.dkim_key_file is not None:
            self._signer = DkimSigner(settings.dkim_key_file, settings.dkim_selector, domain)
        limits = PoolLimits(size=settings.connections, max_messages=settings.messages_per_connection)
        weights = complete_weights([relay.weight for relay in self._relays])
        self._providers = [
            RelayProvider(
                SmtpPool(relay, local_hostname=settings.hostname or domain, limits=limits, timeouts=self._timeouts),
                weight,
                self._clock,
                self._jitter,
            )
            for relay, weight in zip(self._relays, weights, strict=True)
        ]
        self._router = ProviderRouter(
            self.name,
            self._providers,
            self._clock,
            self._alerts,
            # each connection has one message, and one more may wait for it
            max_in_flight=limits.size * len(self._providers) * 2,
            shares_excess=True,
            jitter=self._jitter,
        )

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        """Return the payload of one message: sender and RFC 5322 bytes without `To`. Raises ValidationFailed."""
        return self._composer.compose(content, context)

    def preview(self, content: RenderedMessage, category: Category) -> Mapping[str, object]:
        """Return subject, text part and size of a message, and whether mail programs would clip it."""
        return self._composer.preview(content, category)

    def open_circuits(self) -> Mapping[str, bool]:
        """Return per relay whether it is taken out after failures."""
        return self._router.open_circuits() if self._router is not None else {}

    def list_providers(self) -> Sequence[ProviderStatus]:
        """Return the state of each relay."""
        return self._router.list_status() if self._router is not None else ()

    def destination(self, target: Target) -> Destination | None:  # noqa: ARG002  # the port has one per target
        """Return the relays as the destination of every message, so that hanging ones do not delay other channels."""
        return self._router

    async def send(self, message: OutboundMessage) -> Outcome:
        """Send one message to the address of its target. Raises RuntimeError if the channel is not open."""
        if self._router is None:
            raise RuntimeError("the e-mail channel is not open")
        assert isinstance(message.target, ContactPoint), "e-mail has contact points"
        try:
            address = parse_address(message.target.address)
        except ValidationFailed:
            return InvalidTarget("the address is not a valid e-mail address")
        payload = msgspec.msgpack.decode(message.payload, type=EmailPayload)
        content = f"To: {address}\r\n".encode() + payload.content
        self._in_flight += 1
        self._idle.clear()
        try:
            if self._signer is not None:
                content = await asyncio.to_thread(self._signer.sign, content)
            envelope = Envelope(payload.mail_from, address, content, is_canonical=True)
            context = SendContext(message.delivery_id, message.attempt, message.expires_at, payload.duplicate_ok)
            return await self._router.send(envelope, context, message.priority)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def close(self) -> None:
        """Wait for sends in flight, then close the connections."""
        await self._idle.wait()
        self._router = None
        providers, self._providers = self._providers, []
        for provider in providers:
            provider.close()
        if providers:
            # transports close in the next iteration of the loop
            await asyncio.sleep(0)


def create_email_channel(
    settings: EmailSettings,
    clock: Clock,
    *,
    public_url: str,
    secret_key: str,
    alerts: AlertSink | None = None,
) -> EmailChannel | None:
    """Return a channel that is not open yet, None if no relay is configured. Raises ConfigError."""
    if not settings.is_configured:
        return None
    return EmailChannel(settings, clock, public_url=public_url, secret_key=secret_key, alerts=alerts)


def parse_relays(settings: EmailSettings) -> tuple[Relay, ...]:
    """Return the relays in their order. Raises ConfigError for an invalid one, without its password."""
    relays: dict[str, Relay] = {}
    for number, url in enumerate(settings.smtp_urls, 1):
        try:
            relay = parse_relay(url)
        except ValueError as error:
            raise ConfigError(SHORT_NAME, f"relay {number} {error}") from None
        if relay.name in relays:
            raise ConfigError(SHORT_NAME, f"lists {relay.name} twice; list each relay once")
        relays[relay.name] = relay
    return tuple(relays.values())
