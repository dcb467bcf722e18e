"""The webhook channel: signs messages and posts them to endpoints."""

import random
from collections.abc import Callable, Sequence
from datetime import datetime

from cachetools import LRUCache

from tidings.channels.http.origin import TrustedHosts, check_url
from tidings.channels.http.retry_policy import RetryPolicy
from tidings.channels.http.transport import HttpTransport
from tidings.channels.webhook.payload import encode_payload
from tidings.channels.webhook.response_policy import (
    DEFAULT_RETRY_POLICY,
    WebhookOutcome,
    decide_outcome,
    find_slow_down,
)
from tidings.channels.webhook.signing import parse_secret, sign_message
from tidings.errors import ValidationFailed
from tidings.model.contact_point import ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import PermanentFailure, RetryLater
from tidings.model.secret_rotation import MAX_SECRETS, list_active_secrets
from tidings.model.template import RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.ports.clock import Clock

#: endpoints whose wait is remembered
_MAX_WAITS = 10_000

#: endpoint, time → its signing secrets, `whsec_…` each, the newest first
SecretSource = Callable[[ContactPoint, datetime], Sequence[str]]


class WebhookChannel:
    """Implements `tidings.ports.channel.Channel` for webhooks. A target's address is the URL of its endpoint."""

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        *,
        trusted_hosts: TrustedHosts = frozenset(),
        secrets: SecretSource = list_active_secrets,
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`trusted_hosts` may use plain http and private addresses. `secrets` returns the secrets of an endpoint.

        `jitter` returns a random number, 0 ≤ n < 1. The channel closes the transport.
        """
        self.name = "webhook"
        self.retry_policy = retry_policy
        self._transport = transport
        self._clock = clock
        self._trusted_hosts = trusted_hosts
        self._secrets = secrets
        self._jitter = jitter
        #: endpoint → until when it asked to receive nothing
        self._waits: LRUCache[str, datetime] = LRUCache(_MAX_WAITS)

    async def open(self) -> None:
        """Do nothing: connections are opened when needed."""

    def compose(self, content: RenderedMessage, context: ComposeContext) -> bytes:
        """Return the payload of one message as JSON. Raises ValidationFailed if it has more than 20 000 bytes."""
        return encode_payload(content, context, self._clock.now())

    async def send(self, message: OutboundMessage) -> WebhookOutcome:
        """Sign and post one message. The message id is the delivery's id, the same for every attempt."""
        target = message.target
        assert isinstance(target, ContactPoint)
        now = self._clock.now()
        try:
            origin = check_url(target.address, "address", self._trusted_hosts)
            keys = [parse_secret(secret, "secrets") for secret in self._secrets(target, now)][:MAX_SECRETS]
        except ValidationFailed as error:
            return PermanentFailure(error.message, is_target_suspect=True)
        if not keys:
            return PermanentFailure("the endpoint has no signing secret; give it one", operator_alert=True)
        if (wait_until := self._waits.get(target.id)) is not None and wait_until > now:
            return RetryLater(wait_until, "the endpoint asked for fewer requests", counts_as_attempt=False)
        headers = {
            "content-type": "application/json",
            **sign_message(keys, message.delivery_id, now, message.payload),
        }
        exchange = await self._transport.post(origin, target.address, headers, message.payload)
        now = self._clock.now()
        if (wait := find_slow_down(exchange, now)) is not None:
            self._waits[target.id] = now + wait
        return decide_outcome(exchange, message.delivery_id, message.attempt, now, self._jitter(), self.retry_policy)

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()
