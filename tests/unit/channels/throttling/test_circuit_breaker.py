"""When the circuit of a server opens, for how long, and what closes it."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.throttling.circuit_breaker import (
    DEFAULT_POLICY,
    JITTER_SHARE,
    MAX_REQUESTED_OPEN_DURATION,
    BreakerPolicy,
    CircuitBreaker,
    CircuitState,
    on_result,
    try_acquire,
)
from tidings.channels.throttling.signals import Signal, SignalKind
from tidings.testing.clock import START

HEALTHY, TIMED_OUT, FAILING = (
    Signal(SignalKind.HEALTHY),
    Signal(SignalKind.TIMEOUT),
    Signal(SignalKind.SERVER_ERROR),
)
SECOND = timedelta(seconds=1)
FAILURE_THRESHOLD, FAILURE_WINDOW = DEFAULT_POLICY.failure_threshold, DEFAULT_POLICY.failure_window
MIN_OPEN_DURATION, MAX_OPEN_DURATION = DEFAULT_POLICY.min_open_duration, DEFAULT_POLICY.max_open_duration
PROBE_TIMEOUT = DEFAULT_POLICY.probe_timeout


def throttled(seconds: float) -> Signal:
    return Signal(SignalKind.THROTTLED, timedelta(seconds=seconds))


def unavailable(seconds: float) -> Signal:
    return Signal(SignalKind.UNAVAILABLE, timedelta(seconds=seconds))


def after(
    *signs: Signal, breaker: CircuitBreaker | None = None, now: datetime = START, jitter: float = 0.0
) -> CircuitBreaker:
    """Return the breaker after the results of sends to different devices that were admitted earlier."""
    breaker = breaker or CircuitBreaker()
    for device, sign in enumerate(signs):
        breaker = on_result(breaker, sign, now, target_hash=device, jitter=jitter)
    return breaker


def opened(now: datetime = START) -> CircuitBreaker:
    return after(*[TIMED_OUT] * FAILURE_THRESHOLD, now=now)


def probing(now: datetime) -> CircuitBreaker:
    breaker, may = try_acquire(opened(), now)
    assert may
    return breaker


def test_five_failures_in_a_row_open_it_for_five_seconds() -> None:
    assert after(*[TIMED_OUT] * (FAILURE_THRESHOLD - 1)).state is CircuitState.CLOSED
    breaker = opened()
    assert (breaker.state, breaker.state_until, breaker.is_server_requested) == (
        CircuitState.OPEN,
        START + MIN_OPEN_DURATION,
        False,
    )


@pytest.mark.parametrize(
    ("signs", "opens"), [([TIMED_OUT, TIMED_OUT, HEALTHY], False), ([TIMED_OUT] * 3 + [HEALTHY], True)]
)
def test_it_opens_when_more_than_two_of_three_tries_fail(signs: list[Signal], opens: bool) -> None:
    assert (after(*signs * 20).state is not CircuitState.CLOSED) == opens


def test_one_device_that_always_fails_opens_nothing() -> None:
    breaker = CircuitBreaker()
    for sign in [FAILING, throttled(10)] * 50:
        breaker = on_result(breaker, sign, START, target_hash=7)
    assert breaker.state is CircuitState.CLOSED
    assert after(*[FAILING] * FAILURE_THRESHOLD).state is CircuitState.OPEN


def test_failures_far_apart_in_time_do_not_add_up() -> None:
    breaker, now = CircuitBreaker(), START
    for _ in range(50):
        now += FAILURE_WINDOW + SECOND
        breaker = on_result(breaker, TIMED_OUT, now, target_hash=1)
    assert breaker.state is CircuitState.CLOSED


def test_an_open_circuit_rejects_all_and_then_admits_one_probe() -> None:
    breaker = opened()
    assert try_acquire(breaker, START + MIN_OPEN_DURATION - SECOND) == (breaker, False)
    breaker, may = try_acquire(breaker, START + MIN_OPEN_DURATION)
    assert (breaker.state, may) == (CircuitState.HALF_OPEN, True)
    assert try_acquire(breaker, START + MIN_OPEN_DURATION + SECOND) == (breaker, False)


def test_a_successful_probe_closes_the_circuit() -> None:
    now = START + MIN_OPEN_DURATION
    assert on_result(probing(now), HEALTHY, now, target_hash=1, is_probe=True) == CircuitBreaker()


def test_each_failed_probe_doubles_the_hold_off_up_to_a_minute() -> None:
    breaker, now, pauses = opened(), START, []
    for _ in range(40):
        assert breaker.state_until is not None
        pauses.append(breaker.state_until - now)
        now = breaker.state_until
        breaker, _ = try_acquire(breaker, now)
        breaker = on_result(breaker, TIMED_OUT, now, target_hash=1, is_probe=True)
    assert [pause.total_seconds() for pause in pauses[:6]] == [5, 10, 20, 40, 60, 60]
    assert max(pauses) == MAX_OPEN_DURATION


@pytest.mark.parametrize("sign", [HEALTHY, TIMED_OUT, FAILING, throttled(5), None])
def test_results_of_sends_before_the_opening_are_ignored(sign: Signal | None) -> None:
    for breaker in (opened(), probing(START + MIN_OPEN_DURATION)):
        assert on_result(breaker, sign, START + MIN_OPEN_DURATION, target_hash=1) == breaker


def test_an_inconclusive_probe_is_followed_by_another_at_once() -> None:
    now = START + MIN_OPEN_DURATION
    breaker = on_result(probing(now), None, now, target_hash=1, is_probe=True)
    assert try_acquire(breaker, now)[1]


def test_a_probe_that_never_ends_times_out() -> None:
    now = START + MIN_OPEN_DURATION
    assert not try_acquire(probing(now), now + PROBE_TIMEOUT - SECOND)[1]
    assert try_acquire(probing(now), now + PROBE_TIMEOUT)[1]


@pytest.mark.parametrize("before", [CircuitBreaker(), opened(), probing(START + MIN_OPEN_DURATION)])
def test_retry_after_of_a_503_opens_the_circuit_at_once(before: CircuitBreaker) -> None:
    breaker = on_result(before, unavailable(120), START, target_hash=1)
    assert (breaker.state, breaker.is_server_requested, breaker.state_until) == (
        CircuitState.OPEN,
        True,
        START + timedelta(seconds=120),
    )


def test_the_longest_retry_after_counts() -> None:
    assert after(unavailable(120), unavailable(300), unavailable(5)).state_until == START + timedelta(seconds=300)


def test_retry_after_of_429_pauses_the_host_after_five_devices() -> None:
    assert after(*[throttled(30)] * (FAILURE_THRESHOLD - 1)).state is CircuitState.CLOSED
    breaker = after(*[throttled(30)] * FAILURE_THRESHOLD)
    assert (breaker.state, breaker.is_server_requested, breaker.state_until) == (
        CircuitState.OPEN,
        True,
        START + timedelta(seconds=30),
    )


def test_a_retry_after_of_a_day_is_capped() -> None:
    assert after(unavailable(86_400)).state_until == START + MAX_REQUESTED_OPEN_DURATION


def test_retry_after_does_not_lengthen_later_hold_offs() -> None:
    breaker = after(unavailable(10), unavailable(10), unavailable(10))
    now = START + timedelta(seconds=10)
    breaker, _ = try_acquire(breaker, now)
    assert on_result(breaker, TIMED_OUT, now, target_hash=1, is_probe=True).state_until == now + MIN_OPEN_DURATION


def test_a_clock_that_was_set_back_ends_a_pause() -> None:
    assert try_acquire(after(unavailable(60)), START - timedelta(hours=1))[1]


_signs = st.one_of(
    st.sampled_from([None, HEALTHY, TIMED_OUT, FAILING]),
    st.builds(throttled, st.floats(2, 86_400)),
    st.builds(unavailable, st.floats(2, 86_400)),
)


@given(
    st.lists(st.tuples(_signs, st.floats(-100, 4000), st.integers(0, 6), st.booleans(), st.floats(0, 0.999))), st.data()
)
def test_the_circuit_is_never_open_forever(
    steps: list[tuple[Signal | None, float, int, bool, float]], data: st.DataObject
) -> None:
    breaker, now = CircuitBreaker(), START
    for sign, seconds, device, asks, jitter in steps:
        now += timedelta(seconds=seconds)
        if asks:
            breaker, _ = try_acquire(breaker, now)
        breaker = on_result(breaker, sign, now, target_hash=device, is_probe=data.draw(st.booleans()), jitter=jitter)
        assert breaker.state_until is None or breaker.state_until - now <= MAX_REQUESTED_OPEN_DURATION * (
            1 + JITTER_SHARE
        ) + timedelta(seconds=100 * len(steps))
    assert try_acquire(breaker, now + MAX_REQUESTED_OPEN_DURATION * 2 + timedelta(seconds=100 * len(steps)))[1]


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_only_ever_adds(jitter: float) -> None:
    told, own = (
        after(unavailable(60), jitter=jitter).state_until,
        after(*[TIMED_OUT] * FAILURE_THRESHOLD, jitter=jitter).state_until,
    )
    assert told is not None
    assert own is not None
    assert timedelta(seconds=60) <= told - START <= timedelta(seconds=75)
    assert MIN_OPEN_DURATION <= own - START <= MIN_OPEN_DURATION * 1.25


SHARE_POLICY = BreakerPolicy(cancelled_by_success=0, min_failure_share=0.2)


def fail_spread(seconds: float, failure_share: float) -> CircuitBreaker:
    """Return the breaker after five failures over a period, with successes in between."""
    breaker = CircuitBreaker()
    for number in range(5):
        now = START + timedelta(seconds=seconds) * number / 4
        breaker = on_result(breaker, HEALTHY, now, target_hash=-number, policy=SHARE_POLICY)
        breaker = on_result(breaker, FAILING, now, target_hash=number, failure_share=failure_share, policy=SHARE_POLICY)
    return breaker


@pytest.mark.parametrize(("seconds", "is_open"), [(59, True), (60, True), (61, False)])
def test_c47_failures_count_in_a_sliding_minute_whatever_succeeds_in_between(seconds: float, is_open: bool) -> None:
    assert (fail_spread(seconds, 0.5).state is CircuitState.OPEN) is is_open


@pytest.mark.parametrize(("share", "is_open"), [(0.19, False), (0.2, True)])
def test_c47_a_busy_server_is_not_taken_out_for_few_failures(share: float, is_open: bool) -> None:
    assert (fail_spread(10, share).state is CircuitState.OPEN) is is_open


def test_a_refusal_of_this_client_opens_the_circuit_at_once() -> None:
    assert after(Signal(SignalKind.REFUSED)).state is CircuitState.OPEN
