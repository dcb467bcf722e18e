"""When a push host is held back, for how long, and what closes the breaker again."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush.breaker import (
    FAILURES,
    FIRST_PAUSE,
    JITTER_SHARE,
    LONGEST_PAUSE,
    LONGEST_TOLD_PAUSE,
    MEMORY,
    PROBE,
    Breaker,
    Standing,
    admitted,
    noted,
)
from tidings.channels.webpush.signs import Kind, Sign
from tidings.testing.clock import START

WELL, SILENT, AILING = Sign(Kind.WELL), Sign(Kind.SILENT), Sign(Kind.AILING)
SECOND = timedelta(seconds=1)


def full(seconds: float) -> Sign:
    return Sign(Kind.FULL, timedelta(seconds=seconds))


def shut(seconds: float) -> Sign:
    return Sign(Kind.SHUT, timedelta(seconds=seconds))


def after(*signs: Sign, breaker: Breaker | None = None, now: datetime = START, jitter: float = 0.0) -> Breaker:
    """Return the breaker after sends to as many devices, let in before."""
    breaker = breaker or Breaker()
    for device, sign in enumerate(signs):
        breaker = noted(breaker, sign, now, device=device, jitter=jitter)
    return breaker


def opened(now: datetime = START) -> Breaker:
    return after(*[SILENT] * FAILURES, now=now)


def probing(now: datetime) -> Breaker:
    breaker, may = admitted(opened(), now)
    assert may
    return breaker


def test_five_failures_in_a_row_open_it_for_five_seconds() -> None:
    assert after(*[SILENT] * (FAILURES - 1)).standing is Standing.CLOSED
    breaker = opened()
    assert (breaker.standing, breaker.until, breaker.told) == (Standing.OPEN, START + FIRST_PAUSE, False)


@pytest.mark.parametrize(("signs", "opens"), [([SILENT, SILENT, WELL], False), ([SILENT] * 3 + [WELL], True)])
def test_it_opens_when_more_than_two_of_three_tries_fail(signs: list[Sign], opens: bool) -> None:
    assert (after(*signs * 20).standing is not Standing.CLOSED) == opens


def test_one_device_that_always_fails_opens_nothing() -> None:
    breaker = Breaker()
    for sign in [AILING, full(10)] * 50:
        breaker = noted(breaker, sign, START, device=7)
    assert breaker.standing is Standing.CLOSED
    assert after(*[AILING] * FAILURES).standing is Standing.OPEN


def test_failures_that_lie_far_apart_do_not_add_up() -> None:
    breaker, now = Breaker(), START
    for _ in range(50):
        now += MEMORY + SECOND
        breaker = noted(breaker, SILENT, now, device=1)
    assert breaker.standing is Standing.CLOSED


def test_while_it_is_open_nobody_may_and_afterwards_one() -> None:
    breaker = opened()
    assert admitted(breaker, START + FIRST_PAUSE - SECOND) == (breaker, False)
    breaker, may = admitted(breaker, START + FIRST_PAUSE)
    assert (breaker.standing, may) == (Standing.PROBING, True)
    assert admitted(breaker, START + FIRST_PAUSE + SECOND) == (breaker, False)


def test_a_probe_that_is_answered_closes_it() -> None:
    now = START + FIRST_PAUSE
    assert noted(probing(now), WELL, now, device=1, probe=True) == Breaker()


def test_each_probe_that_fails_doubles_the_pause_up_to_a_minute() -> None:
    breaker, now, pauses = opened(), START, []
    for _ in range(40):
        assert breaker.until is not None
        pauses.append(breaker.until - now)
        now = breaker.until
        breaker, _ = admitted(breaker, now)
        breaker = noted(breaker, SILENT, now, device=1, probe=True)
    assert [pause.total_seconds() for pause in pauses[:6]] == [5, 10, 20, 40, 60, 60]
    assert max(pauses) == LONGEST_PAUSE


@pytest.mark.parametrize("sign", [WELL, SILENT, AILING, full(5), None])
def test_what_was_sent_before_it_opened_is_old_news(sign: Sign | None) -> None:
    for breaker in (opened(), probing(START + FIRST_PAUSE)):
        assert noted(breaker, sign, START + FIRST_PAUSE, device=1) == breaker


def test_a_probe_of_which_nothing_is_learned_lets_the_next_one_try_at_once() -> None:
    now = START + FIRST_PAUSE
    breaker = noted(probing(now), None, now, device=1, probe=True)
    assert admitted(breaker, now)[1]


def test_a_probe_that_never_ends_is_given_up() -> None:
    now = START + FIRST_PAUSE
    assert not admitted(probing(now), now + PROBE - SECOND)[1]
    assert admitted(probing(now), now + PROBE)[1]


@pytest.mark.parametrize("before", [Breaker(), opened(), probing(START + FIRST_PAUSE)])
def test_a_service_that_says_when_it_is_back_is_believed_at_once(before: Breaker) -> None:
    breaker = noted(before, shut(120), START, device=1)
    assert (breaker.standing, breaker.told, breaker.until) == (Standing.OPEN, True, START + timedelta(seconds=120))


def test_the_longest_told_wait_counts_and_a_shorter_one_never_ends_it_early() -> None:
    assert after(shut(120), shut(300), shut(5)).until == START + timedelta(seconds=300)


def test_429_with_a_wait_pauses_the_host_once_five_devices_were_told() -> None:
    assert after(*[full(30)] * (FAILURES - 1)).standing is Standing.CLOSED
    breaker = after(*[full(30)] * FAILURES)
    assert (breaker.standing, breaker.told, breaker.until) == (Standing.OPEN, True, START + timedelta(seconds=30))


def test_a_day_is_too_long_for_all_others() -> None:
    assert after(shut(86_400)).until == START + LONGEST_TOLD_PAUSE


def test_told_pauses_do_not_make_its_own_longer() -> None:
    breaker = after(shut(10), shut(10), shut(10))
    now = START + timedelta(seconds=10)
    breaker, _ = admitted(breaker, now)
    assert noted(breaker, SILENT, now, device=1, probe=True).until == now + FIRST_PAUSE


def test_a_clock_that_was_set_back_ends_a_pause() -> None:
    assert admitted(after(shut(60)), START - timedelta(hours=1))[1]


_signs = st.one_of(
    st.sampled_from([None, WELL, SILENT, AILING]),
    st.builds(full, st.floats(2, 86_400)),
    st.builds(shut, st.floats(2, 86_400)),
)


@given(
    st.lists(st.tuples(_signs, st.floats(-100, 4000), st.integers(0, 6), st.booleans(), st.floats(0, 0.999))), st.data()
)
def test_it_is_never_shut_for_good(
    steps: list[tuple[Sign | None, float, int, bool, float]], data: st.DataObject
) -> None:
    breaker, now = Breaker(), START
    for sign, seconds, device, asks, jitter in steps:
        now += timedelta(seconds=seconds)
        if asks:
            breaker, _ = admitted(breaker, now)
        breaker = noted(breaker, sign, now, device=device, probe=data.draw(st.booleans()), jitter=jitter)
        assert breaker.until is None or breaker.until - now <= LONGEST_TOLD_PAUSE * (1 + JITTER_SHARE) + timedelta(
            seconds=100 * len(steps)
        )
    assert admitted(breaker, now + LONGEST_TOLD_PAUSE * 2 + timedelta(seconds=100 * len(steps)))[1]


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_only_ever_adds(jitter: float) -> None:
    told, own = after(shut(60), jitter=jitter).until, after(*[SILENT] * FAILURES, jitter=jitter).until
    assert told is not None
    assert own is not None
    assert timedelta(seconds=60) <= told - START <= timedelta(seconds=75)
    assert FIRST_PAUSE <= own - START <= FIRST_PAUSE * 1.25
