"""From bytes to records: strict parsing, and an error for each error."""

from contextlib import suppress
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tidings.errors import ValidationFailed
from tidings.schemas import json_body
from tidings.schemas.json_body import MAX_DEPTH, RequestModel
from tidings.schemas.validation_errors import MAX_FIELD_ERRORS


class Inner(RequestModel):
    count: int


class Outer(RequestModel):
    first_name: str
    inner: list[Inner] = Field(default_factory=list)


class Limits(RequestModel):
    word: str = Field("xx", min_length=2, max_length=3)
    some: list[str] = Field(default_factory=lambda: ["x"], min_length=1, max_length=2)
    many: int = Field(0, ge=0, le=9)
    flag: bool = False
    share: float = 0.5
    kind: Literal["soft", "hard"] = "soft"
    inner: Inner | None = None


def _errors(raw: bytes) -> dict[str, str]:
    with pytest.raises(ValidationFailed) as caught:
        json_body.parse_body(raw, Outer)
    return {error.field: error.message for error in caught.value.field_errors}


def test_a_good_body_is_read() -> None:
    assert json_body.parse_body(b'{"firstName": "Ana", "inner": [{"count": 1}]}', Outer).inner[0].count == 1


def test_errors_use_the_callers_field_names() -> None:
    assert _errors(b'{"inner": [{"count": 1}, {"count": "2"}]}') == {
        "firstName": "is required",
        "inner[1].count": "must be a whole number",
    }


def test_unknown_fields_are_refused_and_the_known_ones_listed() -> None:
    assert _errors(b'{"firstName": "Ana", "first_name": "x"}') == {
        "first_name": "is not a known field; known are: firstName, inner"
    }


@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'"text"'])
def test_a_body_that_is_not_an_object_is_an_error_of_the_whole_body(raw: bytes) -> None:
    assert _errors(raw) == {"": "the body must be a JSON object"}


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"word": "x"}, "word", "must have at least 2 characters"),
        ({"word": "xxxx"}, "word", "must have at most 3 characters"),
        ({"word": 1}, "word", "must be a string"),
        ({"some": []}, "some", "must have at least 1 items"),
        ({"some": ["x"] * 3}, "some", "must have at most 2 items"),
        ({"some": "x"}, "some", "must be a list"),
        ({"some": [1]}, "some[0]", "must be a string"),
        ({"many": -1}, "many", "must be at least 0"),
        ({"many": 10}, "many", "must be at most 9"),
        ({"many": True}, "many", "must be a whole number"),
        ({"flag": 1}, "flag", "must be true or false"),
        ({"share": "half"}, "share", "must be a number"),
        ({"kind": "odd"}, "kind", "must be one of soft, hard"),
        ({"inner": []}, "inner", "must be a JSON object"),
        ({"inner": {"count": 1, "odd": 1}}, "inner.odd", "is not a known field"),
    ],
)
def test_each_error_message_says_what_is_valid(given: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        json_body.validate_body(given, Limits)
    assert [(error.field, error.message) for error in caught.value.field_errors] == [(field, message)]


def test_the_number_of_reported_errors_is_bounded() -> None:
    assert len(_errors(msgspec.json.encode({f"x{number}": 1 for number in range(1000)}))) == MAX_FIELD_ERRORS


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   ",
        b"{",
        b'{"a": NaN}',
        b'"\xff"',
        b'"\\ud800"',
        b"{} {}",
        b"[" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"a": "\\u0000"}',
        b'{"a\\u0000": 1}',
    ],
)
def test_unusable_json_is_malformed(raw: bytes) -> None:
    with pytest.raises(ValidationFailed) as caught:
        json_body.parse_json(raw)
    assert caught.value.code == "malformed_json"


def test_as_many_levels_as_allowed_pass() -> None:
    assert json_body.parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (rb'{"a": {"b": ["x", "\u0000"]}}', "a.b[1]"),
        (rb'{"a": {"b\u0000": 1}}', "a"),
        (rb'{"a": "x\u0000", "b": "\u0000"}', "a"),
        (rb'"\u0000"', ""),
    ],
)
def test_a_nul_is_reported_with_its_field(raw: bytes, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        json_body.parse_json(raw)
    assert [error.field for error in caught.value.field_errors] == [field]


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert json_body.parse_json(rb'"\\u0000"') == r"\u0000"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid(raw: bytes) -> None:
    with suppress(ValidationFailed):
        json_body.parse_body(raw, Outer)
