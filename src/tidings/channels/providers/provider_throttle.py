"""The throttle of one provider: its circuit breaker, its rate and its recovery; logs and raises alerts on changes.

The decisions are in `throttling/circuit_breaker`, `throttling/send_rate` and `failover`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from tidings.channels.providers.failover import compute_recovery_share
from tidings.channels.throttling.circuit_breaker import (
    BreakerPolicy,
    CircuitBreaker,
    CircuitState,
    on_result,
    try_acquire,
)
from tidings.channels.throttling.request_window import RequestWindow
from tidings.channels.throttling.send_rate import SendRate, find_limit, find_pause, on_throttled, reserve
from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.model.alert import AlertName
from tidings.model.provider import ProviderState, ProviderStatus
from tidings.ports.alerts import AlertSink
from tidings.ports.clock import Clock

log = structlog.get_logger(__name__)

#: a provider is taken out after five failures in a sliding minute, if they are a fifth of its messages
PROVIDER_POLICY = BreakerPolicy(cancelled_by_success=0, min_failure_share=0.2, max_open_duration=timedelta(minutes=5))
#: how long messages wait while a probe is in flight: it is usually answered within a second
PROBE_RECHECK_DELAY = timedelta(seconds=2)
_FAILURES = frozenset({SignalKind.TIMEOUT, SignalKind.SERVER_ERROR, SignalKind.UNAVAILABLE, SignalKind.REFUSED})
_HEALTHY = Signal(SignalKind.HEALTHY)


class ProviderPermit(msgspec.Struct, frozen=True):
    """The right to send one message to a provider, not before `starts_at`."""

    starts_at: datetime
    is_probe: bool


class Unavailable(msgspec.Struct, frozen=True):
    """A provider receives no message now."""

    why: str
    retry_at: datetime
    #: False: it only asked for fewer messages
    is_out: bool
    #: messages per second that it receives afterwards, None = no limit
    rate_limit: float | None = None


class ProviderThrottle:
    """The state of one provider in this process. Not shared between event loops."""

    def __init__(
        self,
        channel: str,
        name: str,
        weight: int,
        clock: Clock,
        alerts: AlertSink,
        jitter: Callable[[], float],
        policy: BreakerPolicy = PROVIDER_POLICY,
    ) -> None:
        """`weight` is its share of the messages relative to the other providers. `jitter` returns 0 ≤ n < 1."""
        self.name = name
        self.weight = weight
        self._channel = channel
        self._clock = clock
        self._alerts = alerts
        self._jitter = jitter
        self._policy = policy
        self._breaker = CircuitBreaker()
        self._rate = SendRate()
        self._window = RequestWindow()
        self._returned_at: datetime | None = None
        self._outages = 0

    @property
    def share(self) -> float:
        """How much of its weight it has now, 0 to 1."""
        return compute_recovery_share(self._returned_at, self._clock.now())

    @property
    def is_out(self) -> bool:
        """Whether it is taken out, also while it is probed."""
        return self._breaker.state is not CircuitState.CLOSED

    def find_hold_off(self) -> Unavailable | None:
        """Return why it receives no message now, None if it may receive one."""
        now, breaker = self._clock.now(), self._breaker
        if breaker.state is CircuitState.HALF_OPEN and breaker.is_active(now):
            return Unavailable(f"{self.name} is being probed", now + PROBE_RECHECK_DELAY, is_out=True)
        if breaker.state is CircuitState.OPEN and breaker.is_active(now) and breaker.state_until is not None:
            return Unavailable(f"{self.name} is taken out after failures", breaker.state_until, is_out=True)
        _, turn, is_reserved = reserve(self._rate, now)
        return None if is_reserved else self._describe_pause(turn, now)

    def try_acquire(self) -> ProviderPermit | Unavailable:
        """Return the right to send one message. The caller passes it to `complete` or `abandon`."""
        if (hold_off := self.find_hold_off()) is not None:
            return hold_off
        now, before = self._clock.now(), self._breaker
        self._breaker, is_allowed = try_acquire(before, now, self._policy)
        assert is_allowed, "find_hold_off checked it"
        self._rate, turn, _ = reserve(self._rate, now)
        return ProviderPermit(turn, is_probe=self._breaker is not before)

    def abandon(self, permit: ProviderPermit) -> None:
        """Release the permit of a message without a known result."""
        self._breaker = on_result(
            self._breaker, None, self._clock.now(), target_hash=0, is_probe=permit.is_probe, policy=self._policy
        )

    def complete(self, permit: ProviderPermit, signal: Signal, why: str) -> None:
        """Record what an answer says about the provider. `why`: the answer, for people."""
        now = self._clock.now()
        self._window.record(now, is_failure=signal.kind in _FAILURES)
        if signal.kind is SignalKind.THROTTLED:
            self._rate = on_throttled(self._rate, now, self._window.measure_rate(now), signal.retry_after)
            # it works: its rate is reduced instead
            signal = _HEALTHY
        before = self._breaker
        self._breaker = on_result(
            before,
            signal,
            now,
            # each failure counts, also of one recipient
            target_hash=self._window.requests_total,
            is_probe=permit.is_probe,
            jitter=self._jitter(),
            failure_share=self._window.compute_failure_share(now) if signal.kind in _FAILURES else 0.0,
            policy=self._policy,
        )
        self._report_transition(before.state, why, now)

    def describe(self) -> ProviderStatus:
        """Return its state for operators."""
        now = self._clock.now()
        requests, errors = self._window.count(now)
        share = self.share
        return ProviderStatus(
            channel=self._channel,
            name=self.name,
            state=self._classify(share, now),
            circuit=self._breaker.state.value,
            weight=self.weight,
            effective_weight=0.0 if self.is_out else round(self.weight * share, 1),
            rate=round(self._window.measure_rate(now), 2),
            rate_limit=None if (limit := find_limit(self._rate, now)) is None else round(limit, 2),
            requests=requests,
            errors=errors,
            requests_total=self._window.requests_total,
            errors_total=self._window.failures_total,
            outages_total=self._outages,
        )

    def _classify(self, share: float, now: datetime) -> ProviderState:
        if self.is_out:
            return ProviderState.OUT
        if find_limit(self._rate, now) is not None or find_pause(self._rate, now) is not None:
            return ProviderState.THROTTLED
        if share < 1:
            return ProviderState.RECOVERING
        return ProviderState.ACTIVE if self.weight else ProviderState.STANDBY

    def _describe_pause(self, turn: datetime, now: datetime) -> Unavailable:
        return Unavailable(
            f"{self.name} asked for fewer messages", turn, is_out=False, rate_limit=find_limit(self._rate, now)
        )

    def _report_transition(self, before: CircuitState, why: str, now: datetime) -> None:
        after = self._breaker.state
        subject = f"{self._channel} {self.name}"
        if before is CircuitState.CLOSED and after is CircuitState.OPEN:
            self._outages += 1
            log.warning("provider_taken_out", channel=self._channel, provider=self.name, why=why)
            detail = f"it receives one probe at a time until it works again; last answer: {why}"
            self._alerts.raise_alert(AlertName.PROVIDER_OUT, subject, detail)
        elif before is not CircuitState.CLOSED and after is CircuitState.CLOSED:
            self._returned_at = now
            log.info("provider_returned", channel=self._channel, provider=self.name)
            self._alerts.resolve_alert(AlertName.PROVIDER_OUT, subject)
