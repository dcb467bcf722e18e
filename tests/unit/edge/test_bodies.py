"""From bytes to records: strict, and every fault is named."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tidings.api import bodies
from tidings.api.bodies import MAX_DEPTH, Body
from tidings.errors import Invalid


class Inner(Body):
    count: int


class Outer(Body):
    first_name: str
    inner: list[Inner] = Field(default_factory=list)


def _faults(raw: bytes) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        bodies.read(raw, Outer)
    return {fault.field: fault.message for fault in caught.value.faults}


def test_a_good_body_is_read() -> None:
    assert bodies.read(b'{"firstName": "Ana", "inner": [{"count": 1}]}', Outer).inner[0].count == 1


def test_faults_are_named_in_the_callers_spelling() -> None:
    assert _faults(b'{"inner": [{"count": 1}, {"count": "2"}]}') == {
        "firstName": "is required",
        "inner[1].count": "input should be a valid integer",
    }


def test_unknown_fields_are_refused_and_the_known_ones_listed() -> None:
    assert _faults(b'{"firstName": "Ana", "first_name": "x"}') == {
        "first_name": "is not a known field; known are: firstName, inner"
    }


def test_a_list_is_no_object() -> None:
    with pytest.raises(Invalid, match="must be a JSON object"):
        bodies.read(b"[]", Outer)


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
def test_what_is_no_usable_json_is_malformed(raw: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        bodies.parse(raw)
    assert caught.value.code == "malformed_json"


def test_as_many_levels_as_allowed_pass() -> None:
    assert bodies.parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert bodies.parse(rb'"\\u0000"') == r"\u0000"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid(raw: bytes) -> None:
    with suppress(Invalid):
        bodies.read(raw, Outer)
