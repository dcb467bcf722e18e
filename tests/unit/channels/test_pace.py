"""A host's share of the places follows how quickly it answers."""

from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush.pace import LEAST_SHARE, MOST_SHARE, Pace, answered


def after(*seconds: float, pace: Pace | None = None) -> Pace:
    pace = pace or Pace()
    for one in seconds:
        pace = answered(pace, one)
    return pace


def test_it_begins_with_a_tenth_and_never_gets_all() -> None:
    assert Pace().share == LEAST_SHARE == 0.1
    assert not Pace().is_slow
    assert after(*[0.1] * 66).share == MOST_SHARE < 1


def test_a_slow_host_shrinks_to_a_tenth_within_a_few_answers_and_is_called_slow() -> None:
    pace = after(*[10.0] * 20, pace=after(*[0.1] * 100))
    assert pace.share == LEAST_SHARE
    assert pace.is_slow


def test_a_host_that_gets_quick_again_gets_its_share_back() -> None:
    pace = after(*[0.1] * 70, pace=after(*[10.0] * 20))
    assert pace.share == MOST_SHARE
    assert not pace.is_slow


def test_one_slow_answer_in_ten_takes_little_away() -> None:
    assert after(*([0.2] * 9 + [5.0]) * 20).share > 0.5


@given(st.lists(st.floats(0, 60), max_size=200))
def test_the_share_stays_within_its_bounds(seconds: list[float]) -> None:
    assert LEAST_SHARE <= after(*seconds).share <= MOST_SHARE
