"""Texts for chats: whatever a variable contains, no service reads a mention or markup in it."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.chat.text import escape_discord, escape_mentions, escape_slack, measure_text, truncate_text

#: texts with many of the characters that services act on
TEXTS = st.text(st.sampled_from("@<>!#&[]()*_~`|\\-/: .…aeé\N{GRINNING FACE}here")) | st.text()


@given(TEXTS)
def test_c76_slack_reads_no_control_sequence(text: str) -> None:
    escaped = escape_slack(text)
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", escaped)
    shown = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown == escape_mentions(text)


@given(TEXTS)
def test_c76_discord_reads_no_markup_outside_of_urls(text: str) -> None:
    escaped = escape_discord(text)
    outside = re.sub(r"https?://[^\s<>()\[\]]+", "", re.sub(r"\\.", "", escaped))
    assert not re.search(r"[*_~`|<>\[\]()#]", outside)
    assert "@everyone" not in escaped
    assert "@here" not in re.sub(r"\w@here", "", escaped)


@given(TEXTS)
def test_c76_no_name_follows_an_at_sign(text: str) -> None:
    assert not re.search(r"(?<![\w.+-])@\w", escape_mentions(text))


@given(TEXTS, st.integers(1, 40), st.sampled_from([escape_slack, escape_discord, escape_mentions, str]))
def test_a_text_is_cut_to_the_limit(text: str, limit: int, escape: Callable[[str], str]) -> None:
    cut = truncate_text(text, limit, escape)
    assert measure_text(cut) <= limit
    if measure_text(escape(text)) <= limit:
        assert cut == escape(text)
    else:
        assert cut.endswith("…")


@pytest.mark.parametrize("text", ["a@example.org", "see a.b-c@d.org, x", "3 @ 5"])
def test_an_at_sign_that_is_no_mention_stays(text: str) -> None:
    assert escape_mentions(text) == text
