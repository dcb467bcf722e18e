"""What a push host's standing means for the deliveries that go there."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from tidings.channels.webpush.breaker import FAILURES, FIRST_PAUSE
from tidings.channels.webpush.endpoints import EndpointPolicy
from tidings.channels.webpush.hosts import AWAITED, Host, Hosts, Ticket
from tidings.channels.webpush.pace import SILENCE
from tidings.channels.webpush.signs import Kind, Sent, Sign
from tidings.model.outcome import Deferred, Delivered, Outcome, Refused
from tidings.model.priority import Priority
from tidings.testing.clock import START, FrozenClock

EXPIRES = START + timedelta(days=1)
WELL = Sent(Delivered(status=201), Sign(Kind.WELL))
SILENT = Sent(Deferred(START + timedelta(seconds=2), "it hung"), Sign(Kind.SILENT))
LAST = Sent(Refused("gave up after 4 attempts: it hung"), Sign(Kind.SILENT))


class Pushing:
    """One push host under a clock that stands still."""

    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.hosts = Hosts(EndpointPolicy(), self.clock, lambda: 0.0)
        found = self.hosts.of("https://fcm.googleapis.com/x")
        assert found is not None
        self.host: Host = found

    def begin(self, device: str = "x") -> Ticket | Deferred:
        return self.host.begin(f"https://fcm.googleapis.com/{device}", Priority.NORMAL, EXPIRES)

    def begun(self, device: str = "x") -> Ticket:
        ticket = self.begin(device)
        assert isinstance(ticket, Ticket)
        return ticket

    def end(self, ticket: Ticket, sent: Sent) -> Outcome:
        return self.host.end(ticket, sent, Priority.NORMAL, EXPIRES)

    def one(self, sent: Sent, device: str = "x") -> Outcome:
        return self.end(self.begun(device), sent)

    def make_slow(self) -> None:
        for _ in range(20):
            ticket = self.begun()
            self.clock.advance(10)
            self.end(ticket, WELL)

    def break_it(self) -> None:
        for _ in range(FAILURES):
            self.one(SILENT)


@pytest.fixture
def pushing() -> Pushing:
    return Pushing()


def test_one_host_for_all_devices_of_a_service_and_none_for_what_is_not_allowed(pushing: Pushing) -> None:
    assert pushing.hosts.of("https://fcm.googleapis.com/other") is pushing.host
    assert pushing.hosts.of("https://evil.example.com/x") is None


def test_outcomes_pass_as_long_as_the_host_works(pushing: Pushing) -> None:
    assert [pushing.one(sent) for sent in (WELL, SILENT, LAST)] == [WELL.outcome, SILENT.outcome, LAST.outcome]


def test_failures_of_a_host_that_is_down_spend_no_attempt_not_even_the_last(pushing: Pushing) -> None:
    tickets = [pushing.begun() for _ in range(FAILURES + 2)]
    for ticket in tickets[:FAILURES]:
        pushing.end(ticket, SILENT)
    for ticket in tickets[FAILURES:]:
        outcome = pushing.end(ticket, LAST)
        assert isinstance(outcome, Deferred)
        assert not outcome.spends_attempt
        assert outcome.why == "gave up after 4 attempts: it hung; https://fcm.googleapis.com does not work"


def test_while_it_is_held_back_nothing_begins_and_each_comes_back_later_than_the_one_before(pushing: Pushing) -> None:
    pushing.break_it()
    assert pushing.host.is_closed(full=False)
    held_back = [pushing.begin() for _ in range(100)]
    untils = [one.until for one in held_back if isinstance(one, Deferred) and not one.spends_attempt]
    assert len(set(untils)) == 100
    assert untils == sorted(untils)
    assert untils[0] > START + FIRST_PAUSE


def test_urgent_ones_do_not_stand_behind_a_broadcast(pushing: Pushing) -> None:
    pushing.break_it()
    for _ in range(10_000):
        pushing.host.not_now(Priority.LOW, EXPIRES)
    urgent = pushing.host.not_now(Priority.URGENT, EXPIRES)
    assert urgent.until - START < FIRST_PAUSE + timedelta(seconds=0.1)


def test_a_hundred_thousand_that_wait_ten_minutes_are_written_a_few_times_each(pushing: Pushing) -> None:
    pushing.break_it()
    waiting = [START] * 100_000
    written = 0
    for _ in range(600):
        now = pushing.clock.advance(1)
        if not pushing.host.is_closed(full=False):
            pushing.one(SILENT)
        for index, until in enumerate(waiting):
            if until <= now:
                waiting[index] = pushing.host.not_now(Priority.LOW, EXPIRES).until
                written += 1
    assert written < 8 * len(waiting)


def test_after_the_pause_one_probe_goes_and_its_answer_lets_all_in(pushing: Pushing) -> None:
    pushing.break_it()
    pushing.clock.advance(FIRST_PAUSE)
    assert not pushing.host.is_closed(full=False)
    probe = pushing.begun()
    waits = pushing.begin()
    assert isinstance(waits, Deferred)
    assert waits.until >= pushing.clock.now() + AWAITED
    with capture_logs() as logs:
        assert pushing.end(probe, WELL) == WELL.outcome
    assert [line["event"] for line in logs] == ["push_host_works_again"]
    assert [type(pushing.begin()) for _ in range(3)] == [Ticket] * 3


@pytest.mark.parametrize("how", ["broken off", "not sent at all"])
def test_a_probe_of_which_nothing_is_learned_is_followed_by_another(pushing: Pushing, how: str) -> None:
    pushing.break_it()
    pushing.clock.advance(FIRST_PAUSE)
    probe = pushing.begun()
    if how == "broken off":
        pushing.host.broken_off(probe)
    else:
        assert pushing.end(probe, Sent(Refused("no key"))) == Refused("no key")
    assert isinstance(pushing.begin(), Ticket)


def test_each_pause_is_told_once(pushing: Pushing) -> None:
    with capture_logs() as logs:
        for _ in range(3 * FAILURES):
            ticket = pushing.begin()
            if isinstance(ticket, Ticket):
                pushing.end(ticket, SILENT)
    assert [(line["event"], line["host"], line["seconds"], line["told"]) for line in logs] == [
        ("push_host_held_back", "https://fcm.googleapis.com", 5.0, False)
    ]
    assert pushing.hosts.held_back() == {"https://fcm.googleapis.com": True}
    assert pushing.hosts.pauses() == {"https://fcm.googleapis.com": 1}


def test_a_host_that_falls_silent_with_five_in_flight_gets_nothing_more_until_it_answers(pushing: Pushing) -> None:
    first, *rest = [pushing.begun() for _ in range(FAILURES + 1)]
    pushing.clock.advance(SILENCE + 0.1)
    assert pushing.host.is_closed(full=False)
    pushing.end(first, WELL)
    assert not pushing.host.is_closed(full=False)
    pushing.clock.advance(SILENCE + 0.1)
    assert pushing.host.is_closed(full=False)
    pushing.host.broken_off(rest[0])
    assert not pushing.host.is_closed(full=False), "a few that hang may be about their devices"


def test_what_finds_no_room_at_a_slow_host_comes_back_in_a_line_and_not_minutes_later(pushing: Pushing) -> None:
    pushing.make_slow()
    assert pushing.host.share(200) == 20
    assert (pushing.host.is_closed(full=False), pushing.host.is_closed(full=True)) == (False, True)
    untils = [pushing.host.not_now(Priority.LOW, EXPIRES + timedelta(days=1)).until for _ in range(801)]
    assert timedelta(seconds=3) < untils[-1] - untils[0] < timedelta(seconds=5), "it may be quick again any moment"


def test_once_a_host_is_quick_again_the_next_to_be_held_back_do_not_stand_behind_the_last(pushing: Pushing) -> None:
    pushing.make_slow()
    with capture_logs() as logs:
        for _ in range(20_000):
            pushing.host.not_now(Priority.NORMAL, EXPIRES)
        for _ in range(200):
            pushing.one(WELL)
    assert [entry["event"] for entry in logs] == ["push_host_held_back", "push_host_works_again"], "told once each"
    assert logs[0]["told"] is False
    for _ in range(FAILURES):
        pushing.begun()
    pushing.clock.advance(SILENCE + 0.1)
    assert pushing.host.is_closed(full=False)
    again = pushing.host.not_now(Priority.NORMAL, EXPIRES)
    assert again.until - pushing.clock.now() < AWAITED + timedelta(seconds=1)


def test_a_device_is_left_alone_for_as_long_as_the_service_asked(pushing: Pushing) -> None:
    until = START + timedelta(minutes=1)
    told = Sent(Deferred(until, "429", 429, spends_attempt=False), Sign(Kind.FULL, timedelta(minutes=1)))
    assert pushing.one(told, "busy") == told.outcome
    again = pushing.begin("busy")
    assert isinstance(again, Deferred)
    assert (again.until, again.spends_attempt) == (until, False)
    pushing.begun("other")
    pushing.clock.advance(60)
    pushing.begun("busy")


def test_who_would_expire_while_it_is_down_gets_a_last_try(pushing: Pushing) -> None:
    pushing.break_it()
    expires = START + timedelta(seconds=4)
    assert START < pushing.host.not_now(Priority.NORMAL, expires).until < expires
