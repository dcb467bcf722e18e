"""Audiences compose with operators. Their JSON form round-trips or is rejected with the field."""

from functools import reduce
from operator import and_, or_

import pytest
from hypothesis import given

from tidings.errors import ValidationFailed
from tidings.model.audience import Audience as Tree
from tidings.model.audience import (
    Complement,
    Intersection,
    NamedSet,
    Union,
    city,
    everyone,
    from_json,
    targets_only,
    ticket_holders,
    to_json,
    users,
    without_empty_exclusions,
    without_user,
)
from tidings.testing.contracts.audiences_contract import USERS, Population, audiences

HOLDERS = ticket_holders("event-9")
SOMEBODY = Population(dict.fromkeys(USERS), {}, {}, {}, frozenset())


def test_operators_build_the_tree() -> None:
    assert (HOLDERS | city("Basel")) == Union((HOLDERS, city("Basel")))
    assert (HOLDERS & city("Basel")) == Intersection((HOLDERS, city("Basel")))
    assert (HOLDERS - users("ana")) == Intersection((HOLDERS, Complement(users("ana"))))
    assert Complement(HOLDERS) == ~HOLDERS


@pytest.mark.parametrize(("operator", "kind"), [(or_, Union), (and_, Intersection)])
def test_a_chain_is_one_list_however_long(operator: type, kind: type) -> None:
    parts = tuple(city(str(number)) for number in range(50))
    chain = reduce(operator, parts)
    assert chain == kind(parts)
    assert from_json(to_json(chain)) == chain


def test_a_user_named_twice_is_named_once() -> None:
    assert users("ana", "ben", "ana") == NamedSet("users", {"userIds": ["ana", "ben"]})


@given(audiences)
def test_the_json_form_round_trips(audience: Tree) -> None:
    assert from_json(to_json(audience)) == audience


@given(audiences)
def test_removing_a_user_changes_no_other_member(audience: Tree) -> None:
    rest = without_user(audience, "ana")
    assert "ana" not in str(rest)
    assert SOMEBODY.expected_members(rest) - {"ana"} == SOMEBODY.expected_members(audience) - {"ana"}


@given(audiences)
def test_an_audience_that_targets_only_a_user_has_no_other_member(audience: Tree) -> None:
    if targets_only(audience, "ana"):
        assert SOMEBODY.expected_members(audience) <= {"ana"}


def test_targets_only_requires_the_named_user() -> None:
    assert targets_only(users("ana"), "ana")
    assert targets_only(users("ana") & HOLDERS, "ana")
    assert targets_only(users("ana") | users("ana"), "ana")
    assert not targets_only(users("ana", "ben"), "ana")
    assert not targets_only(users("ana") | HOLDERS, "ana")
    assert not targets_only(everyone() - users("ana"), "ana")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("ticket_holders", "audience"),
        ({}, "audience"),
        ({"kind": 7}, "audience"),
        ({"or": [], "and": []}, "audience"),
        ({"or": []}, "audience.or"),
        ({"and": {"kind": "everyone"}}, "audience.and"),
        ({"or": [{"kind": "everyone"}, {"not": None}]}, "audience.or[1].not"),
        ({"not": {"and": [{"kind": "everyone"}, 3]}}, "audience.not.and[1]"),
    ],
)
def test_an_invalid_form_is_rejected_with_its_path(value: object, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        from_json(value)
    assert [error.field for error in caught.value.field_errors] == [field]


def test_an_audience_has_at_most_twelve_levels() -> None:
    deep: object = {"kind": "everyone"}
    for _ in range(11):
        deep = {"not": deep}
    assert from_json(deep)
    with pytest.raises(ValidationFailed, match="12 levels"):
        from_json({"not": deep})


def test_an_audience_has_at_most_200_parts() -> None:
    assert from_json({"or": [{"kind": "everyone"}] * 199})
    with pytest.raises(ValidationFailed, match="200 parts"):
        from_json({"or": [{"kind": "everyone"}] * 200})


def test_a_kind_keeps_all_its_arguments() -> None:
    assert from_json({"kind": "near", "city": "Basel", "km": 5}) == NamedSet("near", {"city": "Basel", "km": 5})


def test_a_list_that_became_empty_excludes_nobody_and_never_widens_the_audience() -> None:
    nobody, all_users, ben = users(), everyone(), users("ben")
    assert without_empty_exclusions(all_users - users() | nobody) == Union((Intersection((all_users,)),))
    assert without_empty_exclusions(ben | nobody) == Union((ben,))
    for kept in (nobody, all_users & nobody, Complement(nobody), Intersection((Complement(nobody),))):
        assert without_empty_exclusions(kept) == kept
    assert without_empty_exclusions(nobody | nobody) == nobody
