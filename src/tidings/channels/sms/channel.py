"""The SMS channel: composes texts and sends them through one provider, or through the next if that one fails."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set

from tidings.channels.http.exchange import Exchange
from tidings.channels.http.retry_policy import RetryPolicy
from tidings.channels.http.transport import HttpTransport
from tidings.channels.providers.failover import SendContext
from tidings.channels.providers.router import ProviderRouter
from tidings.channels.sms.http_provider import HttpSmsProvider
from tidings.channels.sms.numbers import CountryPolicy, parse_number
from tidings.channels.sms.outcome_policy import DEFAULT_RETRY_POLICY
from tidings.channels.sms.payload import (
    SmsPayload,
    build_text,
    compose_text,
    decode_payload,
    encode_payload,
    preview_text,
)
from tidings.channels.sms.provider import SmsRequest
from tidings.channels.sms.spending_guard import Reservation, SpendingGuard
from tidings.errors import ValidationFailed
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage, Target
from tidings.model.outcome import InvalidTarget, Outcome, PermanentFailure
from tidings.model.provider import ProviderStatus
from tidings.model.template import Category, RenderedMessage
from tidings.ports.alerts import AlertSink
from tidings.ports.channel import ComposeContext, Destination
from tidings.ports.clock import Clock

#: concurrent requests per provider
MAX_IN_FLIGHT = 64


class SmsChannel:
    """Implements `tidings.ports.channel.Channel` for SMS. A target's address is a phone number in E.164."""

    def __init__(
        self,
        providers: Sequence[HttpSmsProvider],
        transport: HttpTransport,
        clock: Clock,
        countries: CountryPolicy,
        alerts: AlertSink | None = None,
        *,
        spending: SpendingGuard | None = None,
        max_segments: int = 10,
        plain_text: bool = False,
        duplicate_ok: Set[str] = frozenset(),
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`providers` are asked in this order. The channel closes the transport, over which they post.

        `alerts` are for operators. `spending` counts messages against the daily caps; None = there are none.
        `plain_text` replaces typographic characters. `duplicate_ok` are the categories whose messages go to the next
        provider although the first may have sent them, such as one-time passwords. `jitter` returns a random number,
        0 ≤ n < 1. `sleep` waits for a number of seconds.
        """
        self.name = "sms"
        self.retry_policy = retry_policy
        #: the numbers, names and messaging services from which messages are sent
        self.senders = tuple(provider.sender for provider in providers)
        self._transport = transport
        self._clock = clock
        self._countries = countries
        self._spending = spending
        self._max_segments = max_segments
        self._plain_text = plain_text
        self._duplicate_ok = frozenset(duplicate_ok)
        self._providers = tuple(providers)
        self._router = ProviderRouter(
            self.name,
            providers,
            clock,
            alerts,
            max_in_flight=MAX_IN_FLIGHT * len(providers),
            jitter=jitter,
            sleep=sleep,
        )

    async def open(self) -> None:
        """Load the metadata of phone numbers, which takes half a second. Connections are opened when needed."""
        await asyncio.to_thread(parse_number, "+16502530000")

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        """Return the payload of one message. Raises ValidationFailed if the text is empty or too long."""
        text, segments = compose_text(content, max_segments=self._max_segments, plain=self._plain_text)
        return encode_payload(SmsPayload(text, segments, context.category.code in self._duplicate_ok))

    def preview(self, content: RenderedMessage, _category: Category) -> Mapping[str, object]:
        """Return the text with its encoding and segments, and the character that forces UCS-2."""
        return preview_text(build_text(content, plain=self._plain_text), self._max_segments)

    async def send(self, message: OutboundMessage) -> Outcome:
        """Send one message through the first provider that takes it."""
        target = message.target
        assert isinstance(target, ContactPoint)
        try:
            number = parse_number(target.address)
        except ValidationFailed as error:
            return InvalidTarget(error.message)
        if (refusal := self._countries.find_refusal(number)) is not None:
            return PermanentFailure(refusal)
        payload = decode_payload(message.payload)
        request = SmsRequest(message.delivery_id, number.e164, payload.text, message.expires_at, self._clock.now())
        context = SendContext(message.delivery_id, message.attempt, message.expires_at, payload.duplicate_ok)
        if self._spending is None:
            return await self._router.send(request, context, message.priority)
        if self._router.is_closed(is_full=False):
            # nothing would be asked, so nothing is counted
            return self._router.defer(message.priority, message.expires_at)
        reservation = await self._spending.reserve(number, payload.segments)
        if not isinstance(reservation, Reservation):
            return reservation
        outcome = await self._router.send(request, context, message.priority)
        await self._spending.settle(reservation, outcome)
        return outcome

    def open_circuits(self) -> Mapping[str, bool]:
        """Return per provider whether it is taken out after failures."""
        return self._router.open_circuits()

    def list_providers(self) -> Sequence[ProviderStatus]:
        """Return the state of each provider."""
        return self._router.list_status()

    def destination(self, target: Target) -> Destination | None:  # noqa: ARG002  # the port has one per target
        """Return the providers as the destination of every message: hanging ones do not delay other channels."""
        return self._router

    async def check(self) -> list[tuple[str, Exchange]]:
        """Return for each provider its name, and what it answered to its credentials. Nothing is sent."""
        exchanges = await asyncio.gather(*(provider.check() for provider in self._providers))
        return [(provider.name, exchange) for provider, exchange in zip(self._providers, exchanges, strict=True)]

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()
