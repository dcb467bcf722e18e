"""The alert about a low stock fires once per crossing, and a restock arms it again."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.errors import ValidationFailed
from tidings.packs.commerce.stock import StockItem


def observe(levels: Sequence[int], *, threshold: int = 10, rearm_at: int = 15) -> list[bool]:
    """Return per level whether the alert fires."""
    fired, before = [], None
    for level in levels:
        after = StockItem.build("w", "Widget", level, threshold, rearm_at).with_alert_state(before)
        fired.append(after.is_low and not (before is not None and before.is_low))
        before = after
    return fired


@pytest.mark.parametrize(
    ("levels", "alerts"),
    [
        ([11, 10, 9, 0], [1]),
        ([5], [0]),
        ([10, 12, 10, 14, 9], [0]),
        ([10, 15, 10], [0, 2]),
        ([10, 14, 15, 14, 11, 10], [0, 5]),
    ],
    ids=["falls", "starts low", "varies around the threshold", "restocked", "armed again"],
)
def test_c82_the_alert_fires_once_per_crossing(levels: list[int], alerts: list[int]) -> None:
    assert [index for index, fired in enumerate(observe(levels)) if fired] == alerts


@given(st.lists(st.integers(0, 30), min_size=1))
def test_c82_between_two_alerts_the_stock_was_at_the_upper_threshold(levels: list[int]) -> None:
    places = [index for index, fired in enumerate(observe(levels)) if fired]
    assert all(levels[place] <= 10 for place in places)
    for earlier, later in pairwise(places):
        assert max(levels[earlier:later]) >= 15


@pytest.mark.parametrize(("threshold", "rearm_at"), [(0, 1), (3, 4), (10, 12), (100, 120)])
def test_the_upper_threshold_is_a_fifth_higher_unless_given(threshold: int, rearm_at: int) -> None:
    assert StockItem.build("w", "Widget", 5, threshold, None).rearm_at == rearm_at


def test_an_upper_threshold_that_is_not_higher_is_refused() -> None:
    with pytest.raises(ValidationFailed, match="rearmAt: must be more than threshold"):
        StockItem.build("w", "Widget", 5, 10, 10)
