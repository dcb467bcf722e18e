"""Mentions of saved audiences are replaced by their definitions, or rejected with the field."""

import pytest

from tidings.errors import ValidationFailed
from tidings.model.audience import (
    MAX_DEPTH,
    MAX_USER_IDS,
    Audience,
    Intersection,
    NamedSet,
    Union,
    city,
    everyone,
    saved,
    to_json,
    users,
)
from tidings.model.saved_audience import SavedAudience, expand_saved, list_saved_names


def library(**definitions: Audience) -> dict[str, SavedAudience]:
    return {name: SavedAudience(name, definition) for name, definition in definitions.items()}


def error_of(audience: Audience, **definitions: Audience) -> tuple[str, str]:
    with pytest.raises(ValidationFailed) as caught:
        expand_saved(audience, library(**definitions))
    [error] = caught.value.field_errors
    return error.field, error.message


def test_mentions_are_replaced_at_any_depth() -> None:
    known = library(vip=users("ana") | saved("near"), near=city("Basel"))
    audience = (everyone() & saved("vip")) - saved("near")
    assert list_saved_names(audience) == ["vip", "near"]
    expanded = expand_saved(audience, known)
    assert expanded == Intersection((everyone(), Union((users("ana"), city("Basel"))), ~city("Basel")))
    assert "saved" not in str(to_json(expanded))


def test_f9_an_unknown_or_deleted_saved_audience_is_an_error_and_never_everybody() -> None:
    assert error_of(saved("vip"))[0] == "audience.name"
    field, message = error_of(everyone() - saved("blocked"))
    assert field == "audience.and[1].not.name"
    assert "no saved audience 'blocked'" in message
    field, message = error_of(users("ana") | saved("vip"), vip=saved("gone") & city("Basel"))
    assert field == "audience.or[1].name"
    assert "'vip' mentions" in message


def test_definitions_that_mention_each_other_are_an_error() -> None:
    assert "a → a" in error_of(saved("a"), a=~saved("a"))[1]
    assert "b → c → b" in error_of(saved("a"), a=saved("b"), b=saved("c"), c=city("Basel") | saved("b"))[1]


@pytest.mark.parametrize("arguments", [{}, {"name": 7}, {"name": "vip", "city": "Basel"}])
def test_f9_a_mention_without_a_name_is_an_error(arguments: dict[str, object]) -> None:
    assert error_of(NamedSet("saved", arguments))[0] == "audience"


def test_an_expansion_has_a_limit() -> None:
    chain = {f"a{number}": saved(f"a{number + 1}") for number in range(MAX_DEPTH + 1)}
    assert "too large" in error_of(saved("a0"), **chain, **{f"a{MAX_DEPTH + 1}": city("Basel")})[1]
    # each mentions the one before twice: 2 ** 10 parts
    doubling = {f"b{number}": saved(f"b{number - 1}") | saved(f"b{number - 1}") for number in range(1, 11)}
    assert "200 parts" in error_of(saved("b10"), b0=city("Basel"), **doubling)[1]


def test_the_user_ids_of_an_expansion_have_the_limit_of_a_request() -> None:
    half = users(*(f"user-{number}" for number in range(MAX_USER_IDS // 2)))
    expand_saved(saved("half") | saved("half"), library(half=half))
    for third in (saved("half"), ~saved("half"), users("ana")):
        field, message = error_of(Intersection((saved("half"), saved("half"), third)), half=half)
        assert field.startswith("audience.and[2]")
        assert "more than 10000 user ids" in message
        assert "use an attribute or a topic" in message
