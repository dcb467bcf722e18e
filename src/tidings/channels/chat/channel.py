"""The chat channel: writes messages for Slack, Teams, Discord and Telegram, and posts them at the pace of each."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

from tidings.channels.chat.destination import Destination, Service, load_apprise, parse_destination
from tidings.channels.chat.payload import compose_payload, decode_payload, encode_payload
from tidings.channels.chat.services import INTERVALS, Failed, RateLimited, build_request, read_response
from tidings.channels.http.exchange import Exchange, HttpResponse, NoResponse
from tidings.channels.http.origin import TrustedHosts, check_url
from tidings.channels.http.retry_policy import RetryPolicy
from tidings.channels.http.transport import HttpTransport
from tidings.channels.throttling.pace import PaceRegistry
from tidings.channels.throttling.server_throttle import ServerThrottleRegistry
from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.errors import ConfigError, ValidationFailed
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage, Target
from tidings.model.outcome import Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.provider import ProviderState, ProviderStatus
from tidings.model.template import RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.ports.channel import Destination as SendDestination
from tidings.ports.clock import Clock

DEFAULT_RETRY_POLICY = RetryPolicy((timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15)))
#: key of the pace of a whole service
_GLOBAL = "service:"


class ChatChannel:
    """Implements `tidings.ports.channel.Channel`. A target's address is a URL as apprise writes it."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        base_urls: Mapping[str, str],
        *,
        trusted_hosts: TrustedHosts = frozenset(),
        trusted_teams_hosts: frozenset[str] = frozenset(),
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`base_urls` are those of Slack's API and webhooks (`slack`, `slack_hooks`), of Discord and of Telegram.

        `trusted_hosts` may have private addresses. `trusted_teams_hosts` are hosts of workflows besides Microsoft's.
        `jitter` returns a random number, 0 ≤ n < 1. `sleep` waits for a number of seconds. The channel closes the
        transport.
        """
        self.name = "chat"
        self.retry_policy = retry_policy
        self._transport = transport
        self._clock = clock
        self._base_urls = base_urls
        self._trusted_hosts = trusted_hosts
        self._trusted_teams_hosts = trusted_teams_hosts
        self._jitter = jitter
        self._sleep = sleep
        self._paces = PaceRegistry()
        #: one per service
        self._throttles = ServerThrottleRegistry(clock, jitter)

    async def open(self) -> None:
        """Load apprise, which takes a moment. Raises ConfigError if it is not installed."""
        try:
            await asyncio.to_thread(load_apprise)
        except ImportError as error:
            raise ConfigError("TIDINGS_CHAT__ENABLED", f"needs apprise: {error}") from error

    def compose(self, content: RenderedMessage, _context: ComposeContext) -> bytes:
        """Return the payload of one message. Raises ValidationFailed if it has no text."""
        return encode_payload(compose_payload(content))

    async def send(self, message: OutboundMessage) -> Outcome:
        """Post one message, or defer it until the turn of its destination."""
        target = message.target
        assert isinstance(target, ContactPoint)
        try:
            destination = parse_destination(target.address, self._trusted_teams_hosts)
        except ValueError as error:
            return PermanentFailure(f"the address {error}", is_target_suspect=True)
        throttle = self._throttles.get(destination.service.value)
        if throttle.is_closed(is_full=False):
            return throttle.defer(message.priority, message.expires_at)
        now = self._clock.now()
        whole_service = f"{_GLOBAL}{destination.service}"
        turn, _ = self._paces.reserve(whole_service, timedelta(), now)
        if turn > now:
            return RetryLater(turn, f"{destination.service} takes no more messages now", counts_as_attempt=False)
        turn, is_reserved = self._paces.reserve(destination.address, INTERVALS[destination.service], now)
        if not is_reserved:
            why = f"{destination.service} takes no more messages for this destination now"
            return RetryLater(turn, why, counts_as_attempt=False)
        if turn > now:
            await self._sleep((turn - now).total_seconds())
        permit = throttle.acquire(destination.address, message.priority, message.expires_at)
        if isinstance(permit, RetryLater):
            return permit
        try:
            outcome, signal = await self._post(destination, message)
        except BaseException:
            throttle.abandon(permit)
            raise
        if signal is None:
            throttle.abandon(permit)
            return outcome
        return throttle.record(permit, outcome, signal, message.priority, message.expires_at)

    def destination(self, target: Target) -> SendDestination | None:
        """Return the service of a target, so that one that hangs or fails does not delay the others."""
        if not isinstance(target, ContactPoint):
            return None
        try:
            parsed = parse_destination(target.address, self._trusted_teams_hosts)
        except ValueError:
            # the send refuses it
            return None
        return self._throttles.get(parsed.service.value)

    def open_circuits(self) -> Mapping[str, bool]:
        """Return per service in use whether it is held back after failures."""
        return {one.name: one.describe(self.name).state is ProviderState.OUT for one in self._throttles.list_all()}

    def list_providers(self) -> Sequence[ProviderStatus]:
        """Return the state of each service in use."""
        return [throttle.describe(self.name) for throttle in self._throttles.list_all()]

    async def probe(self, name: str) -> Exchange:
        """Return what the server of a base URL answers to a request without a message. name: of the base URL."""
        url = self._base_urls[name]
        return await self._transport.get(check_url(url, "url", self._trusted_hosts), url, {})

    async def _post(self, destination: Destination, message: OutboundMessage) -> tuple[Outcome, Signal | None]:
        """Return the outcome, and what it says about the service; None if nothing was sent."""
        path, headers, body = build_request(destination, decode_payload(message.payload))
        url = path if destination.service is Service.TEAMS else self._find_base_url(destination) + path
        try:
            origin = check_url(url, "address", self._trusted_hosts)
        except ValidationFailed as error:
            return PermanentFailure(error.message, is_target_suspect=True), None
        exchange = await self._transport.post(origin, url, headers, body)
        now = self._clock.now()
        signal = _classify_exchange(exchange)
        if isinstance(exchange, NoResponse):
            return Uncertain(exchange.why, provider=destination.service.value), signal
        answer = (
            read_response(destination.service, exchange, now)
            if isinstance(exchange, HttpResponse)
            else Failed(exchange.why)
        )
        match answer:
            case RateLimited(wait=wait, is_global=is_global):
                until = now + wait * (1 + self.retry_policy.jitter_share * self._jitter())
                self._paces.pause(f"{_GLOBAL}{destination.service}" if is_global else destination.address, until, now)
                why = f"{destination.service} asked to wait {wait.total_seconds():g} s"
                return RetryLater(until, why, 429, counts_as_attempt=False), signal
            case Failed(why=why, status=status):
                return self.retry_policy.retry_or_give_up(why, message.attempt, now, self._jitter(), status), signal
            case _:
                return answer, signal

    def _find_base_url(self, destination: Destination) -> str:
        is_webhook = destination.service is Service.SLACK and destination.token is None
        return self._base_urls["slack_hooks" if is_webhook else destination.service.value].rstrip("/")

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()


def _classify_exchange(exchange: Exchange) -> Signal:
    """Return what an exchange says about the service. A limit of its rate is kept by the pace."""
    if not isinstance(exchange, HttpResponse):
        return Signal(SignalKind.TIMEOUT)
    return Signal(SignalKind.SERVER_ERROR if exchange.status >= 500 else SignalKind.HEALTHY)
