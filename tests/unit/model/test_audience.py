"""Audiences compose with operators, and their JSON form comes back the same or is refused by name."""

from functools import reduce
from operator import and_, or_

import pytest
from hypothesis import given

from tidings.errors import Invalid
from tidings.model.audience import (
    AllOf,
    AnyOf,
    Except,
    Members,
    city,
    everyone,
    from_json,
    only,
    ticket_holders,
    to_json,
    users,
    without,
)
from tidings.model.audience import Audience as Tree
from tidings.testing.contracts.audiences_contract import USERS, Population, audiences

HOLDERS = ticket_holders("event-9")
SOMEBODY = Population(dict.fromkeys(USERS), {}, {}, {}, frozenset())


def test_operators_build_the_tree() -> None:
    assert (HOLDERS | city("Basel")) == AnyOf((HOLDERS, city("Basel")))
    assert (HOLDERS & city("Basel")) == AllOf((HOLDERS, city("Basel")))
    assert (HOLDERS - users("ana")) == AllOf((HOLDERS, Except(users("ana"))))
    assert Except(HOLDERS) == ~HOLDERS


@pytest.mark.parametrize(("operator", "kind"), [(or_, AnyOf), (and_, AllOf)])
def test_a_chain_is_one_list_however_long(operator: type, kind: type) -> None:
    parts = tuple(city(str(number)) for number in range(50))
    chain = reduce(operator, parts)
    assert chain == kind(parts)
    assert from_json(to_json(chain)) == chain


def test_a_user_named_twice_is_named_once() -> None:
    assert users("ana", "ben", "ana") == Members("users", {"userIds": ["ana", "ben"]})


@given(audiences)
def test_the_json_form_comes_back_the_same(audience: Tree) -> None:
    assert from_json(to_json(audience)) == audience


@given(audiences)
def test_without_a_user_nobody_else_changes(audience: Tree) -> None:
    rest = without(audience, "ana")
    assert "ana" not in str(rest)
    assert SOMEBODY.members(rest) - {"ana"} == SOMEBODY.members(audience) - {"ana"}


@given(audiences)
def test_an_audience_of_one_named_user_holds_nobody_else(audience: Tree) -> None:
    if only(audience, "ana"):
        assert SOMEBODY.members(audience) <= {"ana"}


def test_only_is_for_what_names_the_user() -> None:
    assert only(users("ana"), "ana")
    assert only(users("ana") & HOLDERS, "ana")
    assert only(users("ana") | users("ana"), "ana")
    assert not only(users("ana", "ben"), "ana")
    assert not only(users("ana") | HOLDERS, "ana")
    assert not only(everyone() - users("ana"), "ana")


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
def test_a_wrong_shape_is_named_by_its_path(value: object, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        from_json(value)
    assert [fault.field for fault in caught.value.faults] == [field]


def test_an_audience_has_at_most_twelve_levels() -> None:
    deep: object = {"kind": "everyone"}
    for _ in range(11):
        deep = {"not": deep}
    assert from_json(deep)
    with pytest.raises(Invalid, match="12 levels"):
        from_json({"not": deep})


def test_an_audience_has_at_most_200_parts() -> None:
    assert from_json({"or": [{"kind": "everyone"}] * 199})
    with pytest.raises(Invalid, match="200 parts"):
        from_json({"or": [{"kind": "everyone"}] * 200})


def test_a_kind_keeps_all_its_arguments() -> None:
    assert from_json({"kind": "near", "city": "Basel", "km": 5}) == Members("near", {"city": "Basel", "km": 5})
