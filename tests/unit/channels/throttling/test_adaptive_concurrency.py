"""The adaptive concurrency limit of a push host follows its latency."""

from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.throttling.adaptive_concurrency import MAX_SHARE, MIN_SHARE, AdaptiveLimit, on_latency


def after(*seconds: float, limit: AdaptiveLimit | None = None) -> AdaptiveLimit:
    limit = limit or AdaptiveLimit()
    for one in seconds:
        limit = on_latency(limit, one)
    return limit


def test_the_limit_starts_at_a_tenth_and_never_reaches_all_slots() -> None:
    assert AdaptiveLimit().share == MIN_SHARE == 0.1
    assert not AdaptiveLimit().is_slow
    assert after(*[0.1] * 66).share == MAX_SHARE < 1


def test_a_slow_host_shrinks_to_a_tenth_within_a_few_answers_and_is_called_slow() -> None:
    limit = after(*[10.0] * 20, limit=after(*[0.1] * 100))
    assert limit.share == MIN_SHARE
    assert limit.is_slow


def test_a_host_that_gets_quick_again_gets_its_share_back() -> None:
    limit = after(*[0.1] * 70, limit=after(*[10.0] * 20))
    assert limit.share == MAX_SHARE
    assert not limit.is_slow


def test_one_slow_response_in_ten_reduces_the_limit_little() -> None:
    assert after(*([0.2] * 9 + [5.0]) * 20).share > 0.5


@given(st.lists(st.floats(0, 60), max_size=200))
def test_the_share_stays_within_its_bounds(seconds: list[float]) -> None:
    assert MIN_SHARE <= after(*seconds).share <= MAX_SHARE
