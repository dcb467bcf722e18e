"""An SMS provider over HTTP: posts one request, and says what the response is about."""

import asyncio
from collections.abc import Callable

from tidings.channels.http.exchange import Exchange, NoResponse
from tidings.channels.http.origin import Origin
from tidings.channels.http.retry_policy import RetryPolicy
from tidings.channels.http.transport import HttpTransport
from tidings.channels.providers.failover import ProviderResponse, SendContext, build_request_key
from tidings.channels.sms.outcome_policy import AttemptContext, decide_outcome
from tidings.channels.sms.provider import SmsProvider, SmsRequest
from tidings.ports.clock import Clock

#: names the request, for gateways that take one with the same key once
IDEMPOTENCY_HEADER = "idempotency-key"


class HttpSmsProvider:
    """Implements `providers.router.Provider` for one account at an SMS provider."""

    def __init__(
        self,
        api: SmsProvider,
        origin: Origin,
        transport: HttpTransport,
        clock: Clock,
        *,
        name: str,
        weight: int,
        is_idempotent: bool,
        retry_policy: RetryPolicy,
        jitter: Callable[[], float],
    ) -> None:
        """`name` is unique among the providers. `jitter` returns a random number, 0 ≤ n < 1."""
        self.name = name
        self.weight = weight
        self.is_idempotent = is_idempotent
        #: the number, name or messaging service from which messages are sent
        self.sender = api.sender
        self._api = api
        self._origin = origin
        self._transport = transport
        self._clock = clock
        self._retry_policy = retry_policy
        self._jitter = jitter

    async def check(self) -> Exchange:
        """Return what the provider answers to its credentials. Nothing is sent."""
        url, headers = self._api.build_check()
        return await self._transport.get(self._origin, url, headers)

    async def send(self, message: SmsRequest, context: SendContext, deadline: float, /) -> ProviderResponse:
        """Send one message until `deadline` in event loop time."""
        headers, body = self._api.build_request(message)
        if self.is_idempotent:
            headers = {**headers, IDEMPOTENCY_HEADER: build_request_key(context.delivery_id, self.name)}
        try:
            async with asyncio.timeout_at(deadline):
                exchange: Exchange = await self._transport.post(self._origin, self._api.url, headers, body)
        except TimeoutError:
            # the request may have been written
            exchange = NoResponse(f"{self._origin.host} did not answer in time")
        attempt = AttemptContext(self._clock.now(), context.attempt, self._jitter())
        return decide_outcome(self._api, exchange, attempt, self._retry_policy)
