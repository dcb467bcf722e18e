"""How fast a provider receives messages after it asked for fewer."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.throttling.send_rate import (
    MAX_PAUSE,
    MAX_WAIT,
    MIN_RATE,
    SendRate,
    find_limit,
    find_pause,
    on_throttled,
    reserve,
)
from tidings.testing.clock import START

SECOND = timedelta(seconds=1)


def test_without_a_complaint_there_is_no_limit() -> None:
    rate, turn, is_reserved = reserve(SendRate(), START)
    assert (rate, turn, is_reserved) == (SendRate(), START, True)


def test_c58_a_throttled_provider_receives_half_as_much_then_gradually_more() -> None:
    rate = on_throttled(SendRate(), START, 100.0, None)
    limits = [find_limit(rate, START + seconds * SECOND) for seconds in (0, 10, 30, 59, 60)]
    assert limits == [50.0, 100.0, 200.0, pytest.approx(345.0), None]


def test_answers_to_messages_in_flight_reduce_the_rate_once() -> None:
    rate = on_throttled(SendRate(), START, 100.0, None)
    for _ in range(50):
        rate = on_throttled(rate, START + SECOND / 2, 100.0, None)
    assert find_limit(rate, START + SECOND / 2) == pytest.approx(52.5)
    assert find_limit(on_throttled(rate, START + SECOND, 100.0, None), START + SECOND) == pytest.approx(27.5)


def test_a_requested_wait_is_a_pause_and_the_longest_counts() -> None:
    rate = on_throttled(SendRate(), START, 100.0, 30 * SECOND)
    rate = on_throttled(rate, START, 100.0, 5 * SECOND)
    assert find_pause(rate, START) == START + 30 * SECOND
    assert reserve(rate, START)[1:] == (START + 30 * SECOND, False)
    assert find_pause(rate, START + 30 * SECOND) is None


def test_messages_have_their_turn_one_after_the_other() -> None:
    rate = on_throttled(SendRate(), START, 10.0, timedelta())
    turns: list[datetime] = []
    while True:
        rate, turn, is_reserved = reserve(rate, START)
        if not is_reserved:
            break
        turns.append(turn)
    gaps = {later - earlier for earlier, later in pairwise(turns)}
    assert gaps == {SECOND / 5}
    assert turns[-1] - START == MAX_WAIT


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 100_000), st.booleans()), max_size=30), st.floats(-4000, 0))
def test_a_provider_is_never_stopped_for_good(steps: list[tuple[float, float, bool]], back: float) -> None:
    rate, now = SendRate(), START
    for seconds, wait, is_told in steps:
        now += timedelta(seconds=seconds)
        rate = on_throttled(rate, now, 1000.0, timedelta(seconds=wait) if is_told else None)
        rate, _, _ = reserve(rate, now)
        assert (find_limit(rate, now) or MIN_RATE) >= MIN_RATE
    later = now + timedelta(seconds=back) + 2 * MAX_PAUSE
    assert reserve(rate, later + MAX_PAUSE)[2]
