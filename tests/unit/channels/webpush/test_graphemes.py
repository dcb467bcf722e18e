"""Where a text may be cut: never inside a user-perceived character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.webpush.graphemes import find_boundary

WHOLE = [
    "e\u0301",
    "👍🏽",
    "👩\u200d👩\u200d👧\u200d👦",
    "❤\ufe0f\u200d🔥",
    "🇨🇭",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "1\ufe0f\u20e3",
    "한",
    "각",
    "नि",
    "क्ष",
    "กำ"[:1] + "\u0e31",
    "\r\n",
    "ｶﾞ",
    "Z\u0351\u036b\u0343\u036a",
]


@pytest.mark.parametrize("character", WHOLE, ids=ascii)
@pytest.mark.parametrize("around", ["a", "😀", "漢"])
def test_a_character_of_several_code_points_is_kept_whole(character: str, around: str) -> None:
    text = around + character + around
    for index in range(2, 1 + len(character)):
        assert find_boundary(text, index) == 1
    assert find_boundary(text, 1 + len(character)) == 1 + len(character)


def test_flags_are_pairs_of_letters() -> None:
    flags = "🇨🇭🇩🇪🇫🇷"
    assert [find_boundary(flags, index) for index in range(7)] == [0, 0, 2, 2, 4, 4, 6]


@given(st.text(), st.integers(0, 50))
def test_the_boundary_is_at_most_the_index(text: str, index: int) -> None:
    assert 0 <= find_boundary(text, index) <= index


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)), st.integers(0, 50))
def test_ascii_may_be_cut_anywhere(text: str, index: int) -> None:
    assert find_boundary(text, index) == index
