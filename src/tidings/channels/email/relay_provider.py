"""A relay as a provider: sends a message over its pool, and says what the relay's reply is about."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from tidings.channels.email.reply_policy import RelayFailure, RelayFailureKind, SmtpAttempt, decide_outcome
from tidings.channels.email.smtp_exchange import Envelope
from tidings.channels.email.smtp_pool import SmtpPool
from tidings.channels.providers.failover import Concern, ProviderResponse, SendContext
from tidings.channels.throttling.send_rate import DEFAULT_PAUSE
from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.model.outcome import Accepted, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.ports.clock import Clock

#: wait after a failure of all relays
RETRY_DELAY: Final = timedelta(seconds=10)
_HEALTHY: Final = Signal(SignalKind.HEALTHY)
#: None: a large message and a full pool say nothing about the relay
_SIGNALS: Final = {
    RelayFailureKind.UNREACHABLE: Signal(SignalKind.TIMEOUT),
    RelayFailureKind.FAILING: Signal(SignalKind.SERVER_ERROR),
    RelayFailureKind.REFUSED: Signal(SignalKind.REFUSED),
    RelayFailureKind.THROTTLED: Signal(SignalKind.THROTTLED),
}


class RelayProvider:
    """Implements `providers.router.Provider` for one relay."""

    #: SMTP has no idempotency key
    is_idempotent = False

    def __init__(self, pool: SmtpPool, weight: int, clock: Clock, jitter: Callable[[], float]) -> None:
        """`jitter` returns a random number, 0 ≤ n < 1."""
        self.name = pool.relay.name
        self.weight = weight
        self._pool = pool
        self._clock = clock
        self._jitter = jitter

    async def send(self, message: Envelope, context: SendContext, deadline: float, /) -> ProviderResponse:
        """Send one message until `deadline` in event loop time."""
        exchange = await self._pool.send(message, deadline)
        attempt = SmtpAttempt(self._clock.now(), context.attempt, self._jitter(), self.name)
        return classify_result(decide_outcome(exchange, attempt), attempt.now)

    def close(self) -> None:
        """Close the connections. The caller has awaited its sends."""
        self._pool.close()


def classify_result(result: Outcome | RelayFailure, now: datetime) -> ProviderResponse:
    """Return what a result is about, and what it says about the relay."""
    match result:
        case Accepted():
            return ProviderResponse(result, Concern.ACCEPTED, _HEALTHY)
        case Uncertain():
            return ProviderResponse(result, Concern.UNCERTAIN, Signal(SignalKind.TIMEOUT))
        case RelayFailure(kind=RelayFailureKind.TOO_LARGE, why=why, status=status):
            return ProviderResponse(PermanentFailure(why, status, operator_alert=True), Concern.PROVIDER)
        case RelayFailure(kind=RelayFailureKind.THROTTLED as kind, why=why, status=status):
            retry = RetryLater(now + DEFAULT_PAUSE, why, status, counts_as_attempt=False)
            return ProviderResponse(retry, Concern.RATE, _SIGNALS[kind])
        case RelayFailure(kind=kind, why=why, status=status):
            retry = RetryLater(now + RETRY_DELAY, why, status, counts_as_attempt=False)
            return ProviderResponse(retry, Concern.PROVIDER, _SIGNALS.get(kind))
        case outcome:
            return ProviderResponse(outcome, Concern.RECIPIENT, _HEALTHY)
