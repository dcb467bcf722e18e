"""How the state of a push host affects its deliveries."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from tidings.channels.throttling.adaptive_concurrency import NO_RESPONSE_TIMEOUT
from tidings.channels.throttling.circuit_breaker import DEFAULT_POLICY
from tidings.channels.throttling.server_throttle import RECHECK_DELAY, Permit
from tidings.channels.throttling.signals import SignalKind
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy
from tidings.channels.webpush.throttling.host_signals import HostSignal, SendResult
from tidings.channels.webpush.throttling.host_throttle import (
    MASS_REFUSAL_THRESHOLD,
    HostThrottle,
    HostThrottleRegistry,
)
from tidings.model.outcome import Accepted, Outcome, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.observability.alerts import AlertRegistry
from tidings.testing.clock import START, FrozenClock

FAILURE_THRESHOLD, MIN_OPEN_DURATION = DEFAULT_POLICY.failure_threshold, DEFAULT_POLICY.min_open_duration
EXPIRES = START + timedelta(days=1)
HEALTHY = SendResult(Accepted(status=201), HostSignal(SignalKind.HEALTHY))
TIMED_OUT = SendResult(RetryLater(START + timedelta(seconds=2), "it hung"), HostSignal(SignalKind.TIMEOUT))
TOKEN_REFUSED = SendResult(
    RetryLater(START, "FCM refuses this server's token (401)", 401, counts_as_attempt=False),
    HostSignal(SignalKind.REFUSED, clock_offset=timedelta(hours=25)),
)
LAST = SendResult(PermanentFailure("gave up after 4 attempts: it hung"), HostSignal(SignalKind.TIMEOUT))


class PushHost:
    """One push host with a frozen clock."""

    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.alerts = AlertRegistry(self.clock)
        self.hosts = HostThrottleRegistry(EndpointPolicy(), self.clock, lambda: 0.0, self.alerts)
        found = self.hosts.get("https://fcm.googleapis.com/x")
        assert found is not None
        self.host: HostThrottle = found

    def begin(self, device: str = "x") -> Permit | RetryLater:
        return self.host.acquire(f"https://fcm.googleapis.com/{device}", Priority.NORMAL, EXPIRES)

    def acquire(self, device: str = "x") -> Permit:
        permit = self.begin(device)
        assert isinstance(permit, Permit)
        return permit

    def end(self, permit: Permit, sent: SendResult) -> Outcome:
        return self.host.complete(permit, sent, Priority.NORMAL, EXPIRES)

    def send(self, sent: SendResult, device: str = "x") -> Outcome:
        return self.end(self.acquire(device), sent)

    def make_slow(self) -> None:
        for _ in range(20):
            permit = self.acquire()
            self.clock.advance(10)
            self.end(permit, HEALTHY)

    def raised(self) -> dict[str, str]:
        return {alert.name.value: alert.detail for alert in self.alerts.list_active()}

    def open_circuit(self) -> None:
        for _ in range(FAILURE_THRESHOLD):
            self.send(TIMED_OUT)


@pytest.fixture
def push_host() -> PushHost:
    return PushHost()


def test_devices_of_one_service_share_a_host_and_other_endpoints_have_none(push_host: PushHost) -> None:
    assert push_host.hosts.get("https://fcm.googleapis.com/other") is push_host.host
    assert push_host.hosts.get("https://evil.example.com/x") is None


def test_outcomes_pass_as_long_as_the_host_works(push_host: PushHost) -> None:
    assert [push_host.send(sent) for sent in (HEALTHY, TIMED_OUT, LAST)] == [
        HEALTHY.outcome,
        TIMED_OUT.outcome,
        LAST.outcome,
    ]


def test_failures_of_a_host_that_is_down_spend_no_attempt_not_even_the_last(push_host: PushHost) -> None:
    tickets = [push_host.acquire() for _ in range(FAILURE_THRESHOLD + 2)]
    for permit in tickets[:FAILURE_THRESHOLD]:
        push_host.end(permit, TIMED_OUT)
    for permit in tickets[FAILURE_THRESHOLD:]:
        outcome = push_host.end(permit, LAST)
        assert isinstance(outcome, RetryLater)
        assert not outcome.counts_as_attempt
        assert outcome.why == "gave up after 4 attempts: it hung; https://fcm.googleapis.com is failing"


def test_an_open_circuit_starts_nothing_and_spreads_the_retries(
    push_host: PushHost,
) -> None:
    push_host.open_circuit()
    assert push_host.host.is_closed(is_full=False)
    held_back = [push_host.begin() for _ in range(100)]
    untils = [one.until for one in held_back if isinstance(one, RetryLater) and not one.counts_as_attempt]
    assert len(set(untils)) == 100
    assert untils == sorted(untils)
    assert untils[0] > START + MIN_OPEN_DURATION


def test_urgent_deliveries_do_not_wait_behind_a_broadcast(push_host: PushHost) -> None:
    push_host.open_circuit()
    for _ in range(10_000):
        push_host.host.defer(Priority.LOW, EXPIRES)
    urgent = push_host.host.defer(Priority.URGENT, EXPIRES)
    assert urgent.until - START < MIN_OPEN_DURATION + timedelta(seconds=0.1)


# few deliveries are all deferred again at each of the 13 probes; many are spread over five minutes
@pytest.mark.parametrize(("people", "writes"), [(5_000, 14), pytest.param(100_000, 8, marks=pytest.mark.extended)])
def test_deliveries_that_wait_ten_minutes_are_deferred_a_few_times_each(
    push_host: PushHost, people: int, writes: int
) -> None:
    push_host.open_circuit()
    waiting = [START] * people
    written = 0
    for _ in range(600):
        now = push_host.clock.advance(1)
        if not push_host.host.is_closed(is_full=False):
            push_host.send(TIMED_OUT)
        for index, until in enumerate(waiting):
            if until <= now:
                waiting[index] = push_host.host.defer(Priority.LOW, EXPIRES).until
                written += 1
    assert written < writes * len(waiting)


def test_after_the_hold_off_one_probe_is_sent_and_its_success_admits_all(push_host: PushHost) -> None:
    push_host.open_circuit()
    push_host.clock.advance(MIN_OPEN_DURATION)
    assert not push_host.host.is_closed(is_full=False)
    probe = push_host.acquire()
    waits = push_host.begin()
    assert isinstance(waits, RetryLater)
    assert waits.until >= push_host.clock.now() + RECHECK_DELAY
    with capture_logs() as logs:
        assert push_host.end(probe, HEALTHY) == HEALTHY.outcome
    assert [line["event"] for line in logs] == ["server_works_again"]
    assert [type(push_host.begin()) for _ in range(3)] == [Permit] * 3


@pytest.mark.parametrize("how", ["broken off", "not sent at all"])
def test_an_inconclusive_probe_is_followed_by_another(push_host: PushHost, how: str) -> None:
    push_host.open_circuit()
    push_host.clock.advance(MIN_OPEN_DURATION)
    probe = push_host.acquire()
    if how == "broken off":
        push_host.host.abandon(probe)
    else:
        assert push_host.end(probe, SendResult(PermanentFailure("no key"))) == PermanentFailure("no key")
    assert isinstance(push_host.begin(), Permit)


def test_each_hold_off_is_logged_once(push_host: PushHost) -> None:
    with capture_logs() as logs:
        for _ in range(3 * FAILURE_THRESHOLD):
            permit = push_host.begin()
            if isinstance(permit, Permit):
                push_host.end(permit, TIMED_OUT)
    assert [(line["event"], line["server"], line["seconds"], line["told"]) for line in logs] == [
        ("server_held_back", "https://fcm.googleapis.com", 5.0, False)
    ]
    is_open = push_host.hosts.open_circuits()
    assert [service for service in is_open if is_open[service]] == ["https://fcm.googleapis.com"]


def test_every_push_service_has_a_state_and_hosts_of_a_wildcard_share_one(push_host: PushHost) -> None:
    for number in range(40):
        push_host.hosts.get(f"https://chosen-{number}.notify.windows.com/w/1")
    assert push_host.hosts.open_circuits() == {
        "https://fcm.googleapis.com": False,
        "https://updates.push.services.mozilla.com": False,
        "https://*.push.apple.com": False,
        "https://*.notify.windows.com": False,
    }


def test_a_host_with_five_timeouts_in_flight_gets_nothing_until_it_responds(push_host: PushHost) -> None:
    first, *rest = [push_host.acquire() for _ in range(FAILURE_THRESHOLD + 1)]
    push_host.clock.advance(NO_RESPONSE_TIMEOUT + 0.1)
    assert push_host.host.is_closed(is_full=False)
    push_host.end(first, HEALTHY)
    assert not push_host.host.is_closed(is_full=False)
    push_host.clock.advance(NO_RESPONSE_TIMEOUT + 0.1)
    assert push_host.host.is_closed(is_full=False)
    push_host.host.abandon(rest[0])
    assert not push_host.host.is_closed(is_full=False), "a few that hang may be about their devices"


def test_deliveries_over_the_limit_of_a_slow_host_return_in_nearby_slots(push_host: PushHost) -> None:
    push_host.make_slow()
    assert push_host.host.share(200) == 20
    assert (push_host.host.is_closed(is_full=False), push_host.host.is_closed(is_full=True)) == (False, True)
    untils = [push_host.host.defer(Priority.LOW, EXPIRES + timedelta(days=1)).until for _ in range(801)]
    assert timedelta(seconds=3) < untils[-1] - untils[0] < timedelta(seconds=5), "it may be quick again any moment"


def test_a_recovered_host_starts_new_retry_slots(push_host: PushHost) -> None:
    push_host.make_slow()
    with capture_logs() as logs:
        for _ in range(20_000):
            push_host.host.defer(Priority.NORMAL, EXPIRES)
        for _ in range(200):
            push_host.send(HEALTHY)
    assert [entry["event"] for entry in logs] == ["server_held_back", "server_works_again"], "told once each"
    assert logs[0]["told"] is False
    for _ in range(FAILURE_THRESHOLD):
        push_host.acquire()
    push_host.clock.advance(NO_RESPONSE_TIMEOUT + 0.1)
    assert push_host.host.is_closed(is_full=False)
    again = push_host.host.defer(Priority.NORMAL, EXPIRES)
    assert again.until - push_host.clock.now() < RECHECK_DELAY + timedelta(seconds=1)


def test_a_device_is_muted_for_its_retry_after(push_host: PushHost) -> None:
    until = START + timedelta(minutes=1)
    told = SendResult(
        RetryLater(until, "429", 429, counts_as_attempt=False), HostSignal(SignalKind.THROTTLED, timedelta(minutes=1))
    )
    assert push_host.send(told, "busy") == told.outcome
    again = push_host.begin("busy")
    assert isinstance(again, RetryLater)
    assert (again.until, again.counts_as_attempt) == (until, False)
    push_host.acquire("other")
    push_host.clock.advance(60)
    push_host.acquire("busy")


def test_a_delivery_that_would_expire_during_the_hold_off_gets_a_last_attempt(push_host: PushHost) -> None:
    push_host.open_circuit()
    expires = START + timedelta(seconds=4)
    assert START < push_host.host.defer(Priority.NORMAL, expires).until < expires


def test_a_host_that_refuses_the_token_is_held_back_and_reported_until_it_accepts(push_host: PushHost) -> None:
    outcome = push_host.send(TOKEN_REFUSED)
    assert isinstance(outcome, RetryLater)
    assert (outcome.counts_as_attempt, outcome.status) == (False, 401)
    assert push_host.host.is_closed(is_full=False)
    assert set(push_host.raised()) == {"push_token_refused", "clock_off"}
    assert "25 h 0 min ahead of that of https://fcm.googleapis.com" in push_host.raised()["push_token_refused"]
    for _ in range(3):
        push_host.clock.advance(120)
        push_host.send(TOKEN_REFUSED)
    assert "push_token_refused" in push_host.raised(), "kept until it is over"
    push_host.clock.advance(120)
    accepted = SendResult(Accepted(status=201), HostSignal(SignalKind.HEALTHY, clock_offset=timedelta(seconds=2)))
    assert push_host.send(accepted) == accepted.outcome
    assert push_host.raised() == {}
    assert not push_host.host.is_closed(is_full=False)


def test_after_a_refused_token_another_device_is_the_next_probe(push_host: PushHost) -> None:
    refused = push_host.send(TOKEN_REFUSED, "strange")
    other = push_host.begin("other")
    assert isinstance(refused, RetryLater)
    assert isinstance(other, RetryLater)
    assert other.until < refused.until


def test_one_device_that_is_refused_does_not_stop_a_host_that_accepts_others(push_host: PushHost) -> None:
    outcomes = []
    for _ in range(10):
        push_host.send(HEALTHY, "well")
        push_host.clock.advance(1)
        outcomes.append(push_host.send(TOKEN_REFUSED, "strange"))
        push_host.clock.advance(1)
        assert not push_host.host.is_closed(is_full=False)
    assert "push_token_refused" not in push_host.raised()
    refused = outcomes[-1]
    assert isinstance(refused, PermanentFailure)
    assert refused.is_target_suspect


@pytest.mark.parametrize(("minutes", "is_reported"), [(4, False), (6, True), (-6, True), (-4, False)])
def test_a_clock_off_by_more_than_five_minutes_is_reported(
    push_host: PushHost, minutes: int, is_reported: bool
) -> None:
    signal = HostSignal(SignalKind.HEALTHY, clock_offset=timedelta(minutes=minutes))
    push_host.send(SendResult(Accepted(status=201), signal))
    assert ("clock_off" in push_host.raised()) is is_reported
    if is_reported:
        direction = "ahead of" if minutes > 0 else "behind"
        assert f"is 6 min {direction}" in push_host.raised()["clock_off"]


def test_a_host_that_refuses_every_device_suspends_no_more_of_them(push_host: PushHost) -> None:
    odd = SendResult(PermanentFailure("400", 400, operator_alert=True, is_target_suspect=True), HEALTHY.signal)

    def refuse(device: int) -> bool:
        outcome = push_host.send(odd, str(device))
        assert isinstance(outcome, PermanentFailure)
        return outcome.is_target_suspect

    suspected = [refuse(device) for device in range(MASS_REFUSAL_THRESHOLD + 20)]
    assert suspected == [True] * MASS_REFUSAL_THRESHOLD + [False] * 20
    push_host.send(HEALTHY, "well")
    assert refuse(7), "a host that accepts others refuses this device"
