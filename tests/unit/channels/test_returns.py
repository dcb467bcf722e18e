"""What is held back comes again in a line: spread out, never sooner than told, in time for a last try."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush.returns import LONGEST_LINE, RETURNS_PER_SECOND, Pause, in_time, place_in_line
from tidings.testing.clock import START

LATER = START + timedelta(seconds=60)
FAR = START + timedelta(days=1)


def test_a_hundred_thousand_come_back_at_a_rate_the_database_can_bear() -> None:
    pause, line, places = Pause("gone", LATER), None, []
    for _ in range(100_000):
        line = place_in_line(line, pause, 0.5)
        places.append(line)
    assert min(places) > LATER
    assert places == sorted(places)
    assert timedelta(seconds=99) < places[-1] - places[0] < timedelta(seconds=101)


def test_in_a_line_that_is_full_everybody_finds_a_place_anywhere_in_it() -> None:
    pause = Pause("gone", LATER)
    end = LATER + LONGEST_LINE
    assert [place_in_line(end, pause, jitter) for jitter in (0.0, 0.5)] == [LATER, LATER + LONGEST_LINE / 2]


def test_a_slow_host_gets_them_back_as_slowly() -> None:
    pause = Pause("slow", START, rate=4.0)
    assert place_in_line(START, pause, 0.0) == START + timedelta(seconds=0.25)


def test_who_would_expire_in_the_line_gets_a_last_try() -> None:
    expires = START + timedelta(seconds=40)
    assert in_time(LATER, Pause("gone", LATER), expires, START, 0.0) == expires - timedelta(seconds=2)


def test_but_never_sooner_than_the_service_said() -> None:
    pause = Pause("shut", LATER, told=True)
    assert in_time(LATER, pause, START + timedelta(seconds=40), START, 0.5) >= LATER


@given(st.floats(0, 400_000), st.floats(0, 200_000), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_a_place_is_never_in_the_past_and_a_told_one_never_early(
    expires: float, pause_for: float, told: bool, jitter: float
) -> None:
    pause = Pause("x", START + timedelta(seconds=pause_for), told)
    place = place_in_line(None, pause, jitter)
    until = in_time(place, pause, START + timedelta(seconds=expires), START, jitter)
    assert until > START
    assert not told or until >= pause.until
    assert until <= place or until <= START + timedelta(seconds=1)
    assert place - pause.until <= max(LONGEST_LINE, timedelta(seconds=1 / RETURNS_PER_SECOND))
