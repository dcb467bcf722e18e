"""The text of an SMS."""

import pytest

from tidings.channels.sms.payload import compose_text
from tidings.errors import ValidationFailed
from tidings.model.template import RenderedMessage


def compose(title: str = "", body: str = "", own: str | None = None, *, segments: int = 3, plain: bool = False) -> str:
    fields = {} if own is None else {"text": own}
    message = RenderedMessage(title, body, "https://app.example/7", "en", fields=fields)
    return compose_text(message, max_segments=segments, plain=plain)[0]


def test_the_text_is_made_from_title_and_body() -> None:
    assert compose("Hello", "World") == "Hello\nWorld"
    assert compose("Hello") == "Hello"
    assert compose("", "World") == "World"


def test_the_templates_own_text_goes_first() -> None:
    assert compose("Hello", "World", "Code 123") == "Code 123"


def test_lines_end_with_one_character() -> None:
    assert compose(own=" a\r\nb\rc \n") == "a\nb\nc"


@pytest.mark.parametrize("own", ["", " \n "])
def test_a_text_that_is_empty_after_rendering_is_not_replaced(own: str) -> None:
    with pytest.raises(ValidationFailed, match="text: is empty after rendering"):
        compose("Hello", "World", own)


@pytest.mark.parametrize("own", ["a\x00b", "a\x1bb", "\ud83d", "a\x7f"])
def test_characters_that_no_phone_displays_are_refused(own: str) -> None:
    with pytest.raises(ValidationFailed, match="cannot be sent in an SMS"):
        compose(own=own)


def test_a_text_that_is_too_long_names_what_makes_it_long() -> None:
    assert compose("a" * 459) == "a" * 459
    with pytest.raises(ValidationFailed, match=r"has 4 segments \(GSM-7\); shorten it to at most 3"):
        compose("a" * 460)
    with pytest.raises(ValidationFailed, match=r"has 4 segments \(UCS-2 because of '’'\)"):
        compose("a" * 201 + "’")
    assert compose("a" * 201 + "’", plain=True) == "a" * 201 + "'"
