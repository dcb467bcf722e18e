"""The throttle of one server: keeps its circuit breaker, AIMD limit and retry slots up to date, and logs changes.

The decisions are in `circuit_breaker`, `adaptive_concurrency` and `retry_schedule`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from math import ceil

import msgspec
import structlog
from cachetools import LRUCache

from tidings.channels.throttling.adaptive_concurrency import NO_RESPONSE_TIMEOUT, AdaptiveLimit, on_latency
from tidings.channels.throttling.circuit_breaker import (
    DEFAULT_POLICY,
    CircuitBreaker,
    CircuitState,
    on_result,
    try_acquire,
)
from tidings.channels.throttling.request_window import RequestWindow
from tidings.channels.throttling.retry_schedule import (
    MIN_RETRIES_PER_SECOND,
    HoldOff,
    before_expiry,
    next_retry_slot,
)
from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.model.outcome import Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.provider import ProviderState, ProviderStatus
from tidings.ports.clock import Clock

log = structlog.get_logger(__name__)

#: how long deliveries wait while a probe is in flight or a server does not respond
RECHECK_DELAY = timedelta(seconds=5)
#: how long a delivery waits at least when the slots of a slow server are taken
MIN_SLOW_SERVER_DELAY = timedelta(seconds=2)
#: servers kept per channel; their number is unbounded
MAX_SERVERS = 512
#: signals of failures of the server itself
_FAILURES = frozenset({SignalKind.TIMEOUT, SignalKind.SERVER_ERROR, SignalKind.UNAVAILABLE, SignalKind.REFUSED})


class Permit(msgspec.Struct, frozen=True, eq=False):
    """The right to start one send to a server."""

    target_hash: int
    started_at: datetime
    is_probe: bool


class ServerThrottle:
    """The throttle of one server, a `ports.channel.Destination`. Not shared between event loops."""

    def __init__(self, name: str, clock: Clock, jitter: Callable[[], float]) -> None:
        """`name` is the server's origin or name. `jitter` returns a random number, 0 ≤ n < 1."""
        self.name = name
        self._clock = clock
        self._jitter = jitter
        self._breaker = CircuitBreaker()
        self._adaptive_limit = AdaptiveLimit()
        self._retry_slots: dict[Priority, datetime] = {}
        #: in order of their start
        self._in_flight: dict[Permit, None] = {}
        self._last_response_at: datetime | None = None
        self._slot_limit = 1
        self._window = RequestWindow()
        self._outages = 0

    def share(self, slots: int) -> int:
        """Return how many of the send slots this server may use now."""
        self._slot_limit = max(1, ceil(slots * self._adaptive_limit.share))
        return self._slot_limit

    def is_closed(self, *, is_full: bool) -> bool:
        """Return whether nothing more may be sent to the server now. `is_full`: its share of the slots is taken."""
        return self._current_hold_off(is_full=is_full) is not None

    def defer(self, priority: Priority, expires_at: datetime) -> RetryLater:
        """Return the retry of a delivery that may not be sent now. It spends no attempt."""
        now = self._clock.now()
        hold_off = self._current_hold_off(is_full=True)
        if hold_off is None:
            hold_off = HoldOff(f"{self.name} was throttled until just now", now)
        elif not self._retry_slots and self._breaker.state is CircuitState.CLOSED:
            # first deferral without an open circuit: `_log_transition` does not log it
            self._log_held_back(
                _seconds_until(hold_off.until, now), hold_off.why, is_requested=hold_off.is_server_requested
            )
        slot = next_retry_slot(self._retry_slots.get(priority), hold_off, self._jitter())
        self._retry_slots[priority] = max(slot, self._retry_slots.get(priority, slot))
        until = before_expiry(slot, hold_off, expires_at, now, self._jitter())
        return RetryLater(until, hold_off.why, counts_as_attempt=False)

    def acquire(self, target: str, priority: Priority, expires_at: datetime) -> Permit | RetryLater:
        """Return a permit to send to a target, or when to retry.

        `target` identifies it, such as an endpoint. The caller must pass the permit to `complete` or `abandon`.
        """
        now, target_hash = self._clock.now(), hash(target)
        before = self._breaker
        self._breaker, is_allowed = try_acquire(before, now)
        if not is_allowed:
            return self.defer(priority, expires_at)
        permit = Permit(target_hash, now, is_probe=self._breaker is not before)
        self._in_flight[permit] = None
        return permit

    def abandon(self, permit: Permit) -> None:
        """Release the permit of a send without a known result."""
        self._in_flight.pop(permit, None)
        self._breaker = on_result(
            self._breaker, None, self._clock.now(), target_hash=permit.target_hash, is_probe=permit.is_probe
        )

    def record(
        self, permit: Permit, outcome: Outcome, signal: Signal, priority: Priority, expires_at: datetime
    ) -> Outcome:
        """Record the result of a send and return the outcome for the delivery.

        A failure that the server is responsible for becomes a retry until the message expires.
        """
        now = self._clock.now()
        self._in_flight.pop(permit, None)
        self._window.record(now, is_failure=signal.kind in _FAILURES)
        self._adaptive_limit = on_latency(self._adaptive_limit, (now - permit.started_at).total_seconds())
        if signal.kind is not SignalKind.TIMEOUT:
            self._last_response_at = now
        before = self._breaker
        self._breaker = on_result(
            before, signal, now, target_hash=permit.target_hash, is_probe=permit.is_probe, jitter=self._jitter()
        )
        self._log_transition(before, outcome.why, now)
        if signal.kind is SignalKind.HEALTHY and self._retry_slots and self._current_hold_off(is_full=True) is None:
            # deliveries deferred from now on must not queue behind slots that turned out to be later than necessary
            self._clear_retry_slots()
        is_server_failure = signal.kind in (SignalKind.TIMEOUT, SignalKind.SERVER_ERROR)
        if not is_server_failure or self._breaker.state is CircuitState.CLOSED:
            return outcome
        if not isinstance(outcome, RetryLater | PermanentFailure):
            return outcome
        # the cause is the server and not this message, so it is retried until it expires
        retry = self.defer(priority, expires_at)
        return RetryLater(retry.until, f"{outcome.why}; {retry.why}", outcome.status, counts_as_attempt=False)

    def describe(self, channel: str) -> ProviderStatus:
        """Return its state for operators."""
        now = self._clock.now()
        requests, errors = self._window.count(now)
        state = ProviderState.ACTIVE
        if self._breaker.state is not CircuitState.CLOSED:
            state = ProviderState.OUT
        elif self._current_hold_off(is_full=False) is not None or self._adaptive_limit.is_slow:
            state = ProviderState.THROTTLED
        return ProviderStatus(
            channel=channel,
            name=self.name,
            state=state,
            circuit=self._breaker.state.value,
            weight=None,
            effective_weight=None,
            rate=round(self._window.measure_rate(now), 2),
            rate_limit=None,
            requests=requests,
            errors=errors,
            requests_total=self._window.requests_total,
            errors_total=self._window.failures_total,
            outages_total=self._outages,
        )

    @property
    def is_idle(self) -> bool:
        """Whether the throttle can be dropped: no sends in flight and the circuit closed."""
        return not self._in_flight and self._breaker.state is CircuitState.CLOSED

    def _current_hold_off(self, *, is_full: bool) -> HoldOff | None:
        now, breaker = self._clock.now(), self._breaker
        if breaker.state is CircuitState.OPEN and breaker.state_until is not None and breaker.is_active(now):
            why = "requested a pause" if breaker.is_server_requested else "is failing"
            return HoldOff(f"{self.name} {why}", breaker.state_until, breaker.is_server_requested)
        if breaker.state is CircuitState.HALF_OPEN and breaker.is_active(now):
            return HoldOff(f"{self.name} is being probed", now + RECHECK_DELAY)
        if self._is_unresponsive(now):
            return HoldOff(f"{self.name} does not respond", now + RECHECK_DELAY)
        if is_full and self._adaptive_limit.is_slow:
            return HoldOff(
                f"{self.name} is slow",
                now + MIN_SLOW_SERVER_DELAY,
                retries_per_second=max(MIN_RETRIES_PER_SECOND, self._slot_limit / self._adaptive_limit.average_latency),
            )
        return None

    def _is_unresponsive(self, now: datetime) -> bool:
        # fewer than the threshold may hang because of their targets, and are harmless
        nth_oldest = next(islice(self._in_flight, DEFAULT_POLICY.failure_threshold - 1, None), None)
        if nth_oldest is None:
            return False
        since = nth_oldest.started_at
        if self._last_response_at is not None:
            since = max(since, self._last_response_at)
        return (now - since).total_seconds() > NO_RESPONSE_TIMEOUT

    def _log_transition(self, before: CircuitBreaker, why: str, now: datetime) -> None:
        after = self._breaker
        if after.state is CircuitState.OPEN and before.state is not CircuitState.OPEN:
            self._outages += 1
            seconds = 0.0 if after.state_until is None else _seconds_until(after.state_until, now)
            self._log_held_back(seconds, why, is_requested=after.is_server_requested)
        elif after.state is CircuitState.CLOSED and before.state is not CircuitState.CLOSED:
            self._clear_retry_slots()

    def _log_held_back(self, seconds: float, why: str, *, is_requested: bool) -> None:
        log.warning("server_held_back", server=self.name, seconds=seconds, told=is_requested, why=why)

    def _clear_retry_slots(self) -> None:
        # deferred deliveries keep their time; new deferrals start from the first slot again
        self._retry_slots.clear()
        log.info("server_works_again", server=self.name)


class ServerThrottleRegistry:
    """The throttles of the servers of one channel, by name."""

    def __init__(self, clock: Clock, jitter: Callable[[], float]) -> None:
        self._clock = clock
        self._jitter = jitter
        self._throttles: LRUCache[str, ServerThrottle] = LRUCache(MAX_SERVERS)

    def get(self, name: str) -> ServerThrottle:
        """Return the throttle of a server."""
        throttle = self._throttles.get(name)
        if throttle is None:
            throttle = self._throttles[name] = ServerThrottle(name, self._clock, self._jitter)
        return throttle

    def list_all(self) -> Sequence[ServerThrottle]:
        """Return the throttles of the servers in use."""
        return list(self._throttles.values())


def _seconds_until(until: datetime, now: datetime) -> float:
    return round((until - now).total_seconds(), 1)
