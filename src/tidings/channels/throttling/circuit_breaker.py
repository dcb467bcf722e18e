"""Circuit breaker per server: state and signal in, new state out. Pure.

    closed ──N failures in a window──► open ──period over──► half-open ──probe succeeds──► closed
       └──Retry-After, client refused──► open   ◄──probe fails: period doubled──┘

A `BreakerPolicy` has the figures. Failures that may concern one target only (429, 5xx) count once per target: one
device must not stop the sends to all others. A refusal of this client opens the circuit at once.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from tidings.channels.throttling.signals import Signal, SignalKind

#: a wait that a server requests applies to all deliveries, but for at most this long without a probe. The delivery that
#: received the request waits for the full time
MAX_REQUESTED_OPEN_DURATION = timedelta(hours=1)
#: maximum random addition, so that workers do not all probe at one instant
JITTER_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a circuit opens, and for how long."""

    #: failures that open the circuit …
    failure_threshold: int = 5
    #: … within this sliding window
    failure_window: timedelta = timedelta(seconds=60)
    #: time-outs that a healthy answer cancels, besides all failures of single targets; 0 = it cancels nothing
    cancelled_by_success: int = 2
    #: least share of failures among the answers of the window, so that a busy server is not taken out for a few
    min_failure_share: float = 0.0
    #: how long the circuit stays open at first and at most; doubled after each failed probe
    min_open_duration: timedelta = timedelta(seconds=5)
    max_open_duration: timedelta = timedelta(seconds=60)
    #: a probe without a result is abandoned after this; a send is limited to 20 s
    probe_timeout: timedelta = timedelta(seconds=25)


#: for a push host, and for an endpoint: its failures may concern one target only
DEFAULT_POLICY = BreakerPolicy()


class CircuitState(StrEnum):
    """Whether messages may be sent to a server."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Failure(NamedTuple):
    """A failure that counts."""

    at: datetime
    #: hash of the target that it may be about; None = a time-out, which is about the server
    target_hash: int | None


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """The state of one server's circuit in this process."""

    state: CircuitState = CircuitState.CLOSED
    #: failures that no healthy answer has cancelled, the oldest first
    failures: tuple[Failure, ...] = ()
    #: when the circuit opened or the probe started, and until when that state lasts
    state_since: datetime | None = None
    state_until: datetime | None = None
    #: times it opened because of failures since it was last closed
    consecutive_opens: int = 0
    #: whether the server requested `state_until`
    is_server_requested: bool = False

    def is_active(self, now: datetime) -> bool:
        """Return whether the open or half-open period is still running. Setting the clock back ends it."""
        return (
            self.state_since is not None and self.state_until is not None and self.state_since <= now < self.state_until
        )


def try_acquire(
    breaker: CircuitBreaker, now: datetime, policy: BreakerPolicy = DEFAULT_POLICY
) -> tuple[CircuitBreaker, bool]:
    """Return the new state and whether one send may start. After the open period one send is allowed as the probe."""
    if breaker.state is CircuitState.CLOSED:
        return breaker, True
    if breaker.is_active(now):
        return breaker, False
    return replace(
        breaker,
        state=CircuitState.HALF_OPEN,
        state_since=now,
        state_until=now + policy.probe_timeout,
        is_server_requested=False,
    ), True


def on_result(
    breaker: CircuitBreaker,
    signal: Signal | None,
    now: datetime,
    *,
    target_hash: int,
    is_probe: bool = False,
    jitter: float = 0.0,
    failure_share: float = 1.0,
    policy: BreakerPolicy = DEFAULT_POLICY,
) -> CircuitBreaker:
    """Return the new state after a send has ended.

    `signal` is None if the send revealed nothing about the server. `target_hash` identifies the target. `is_probe`:
    whether the send was admitted as the probe. `jitter`: random, 0 ≤ jitter < 1. `failure_share`: failures among the
    sends that ended within the window, with this one, 0 to 1; for a policy with a least share.
    """
    if signal is None:
        # the next send becomes the probe
        return (
            replace(breaker, state=CircuitState.OPEN, state_until=now)
            if _is_current_probe(breaker, is_probe)
            else breaker
        )
    if signal.kind is SignalKind.UNAVAILABLE:
        return _open_as_requested(breaker, signal, now, jitter)
    match breaker.state:
        case CircuitState.CLOSED if signal.kind is SignalKind.REFUSED:
            return _open(breaker, signal, now, jitter, policy)
        case CircuitState.CLOSED if signal.kind is SignalKind.HEALTHY:
            return _cancel_failures(breaker, policy)
        case CircuitState.CLOSED:
            counted = replace(breaker, failures=_add_failure(breaker.failures, signal, now, target_hash, policy))
            if len(counted.failures) < policy.failure_threshold or failure_share < policy.min_failure_share:
                return counted
            return _open(counted, signal, now, jitter, policy)
        case CircuitState.HALF_OPEN if is_probe:
            return (
                CircuitBreaker() if signal.kind is SignalKind.HEALTHY else _open(breaker, signal, now, jitter, policy)
            )
        case _:
            # sent before the circuit opened: outdated
            return breaker


def _is_current_probe(breaker: CircuitBreaker, is_probe: bool) -> bool:
    return is_probe and breaker.state is CircuitState.HALF_OPEN


def _cancel_failures(breaker: CircuitBreaker, policy: BreakerPolicy) -> CircuitBreaker:
    if not breaker.failures or not policy.cancelled_by_success:
        return breaker
    timeouts = tuple(failure for failure in breaker.failures if failure.target_hash is None)
    return replace(breaker, failures=timeouts[policy.cancelled_by_success :])


def _add_failure(
    failures: tuple[Failure, ...], signal: Signal, now: datetime, target_hash: int, policy: BreakerPolicy
) -> tuple[Failure, ...]:
    new = Failure(now, None if signal.kind is SignalKind.TIMEOUT else target_hash)
    kept = tuple(
        failure
        for failure in failures
        if timedelta() <= now - failure.at <= policy.failure_window
        and (new.target_hash is None or failure.target_hash != new.target_hash)
    )
    return (*kept, new)[-policy.failure_threshold :]


def _open(
    breaker: CircuitBreaker, signal: Signal, now: datetime, jitter: float, policy: BreakerPolicy
) -> CircuitBreaker:
    if signal.retry_after is not None:
        return _open_as_requested(breaker, signal, now, jitter)
    # the exponent is capped so that a long outage does not overflow
    duration = min(policy.max_open_duration, policy.min_open_duration * 2 ** min(breaker.consecutive_opens, 10))
    return CircuitBreaker(
        CircuitState.OPEN,
        state_since=now,
        state_until=now + duration * (1 + JITTER_SHARE * jitter),
        consecutive_opens=breaker.consecutive_opens + 1,
    )


def _open_as_requested(breaker: CircuitBreaker, signal: Signal, now: datetime, jitter: float) -> CircuitBreaker:
    assert signal.retry_after is not None, "UNAVAILABLE has retry_after"
    # jitter is only added: the circuit must not close before the requested time
    until = now + min(MAX_REQUESTED_OPEN_DURATION, signal.retry_after) * (1 + JITTER_SHARE * jitter)
    if breaker.state is CircuitState.OPEN and breaker.state_until is not None and breaker.is_active(now):
        # other sends in flight received similar requests: the longest wait counts
        return replace(breaker, state_until=max(until, breaker.state_until), is_server_requested=True)
    return CircuitBreaker(
        CircuitState.OPEN,
        state_since=now,
        state_until=until,
        consecutive_opens=breaker.consecutive_opens,
        is_server_requested=True,
    )
