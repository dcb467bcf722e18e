"""`tidings send` reads variables as text or JSON."""

import pytest

from tidings.cli.send import parse_variable
from tidings.errors import ValidationFailed


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("title=Hello", "title", "Hello"),
        ("title=a=b", "title", "a=b"),
        ("title=", "title", ""),
        ("count:=3", "count", 3),
        ('items:=["a", null]', "items", ["a", None]),
        ("url=https://a.example/?x=1", "url", "https://a.example/?x=1"),
    ],
)
def test_variables_are_text_or_json(text: str, name: str, value: object) -> None:
    assert parse_variable(text) == (name, value)


@pytest.mark.parametrize("text", ["title", "=x", ":=3", "count:=three"])
def test_a_wrong_variable_says_what_would_be_right(text: str) -> None:
    with pytest.raises(ValidationFailed, match="for example --var"):
        parse_variable(text)
