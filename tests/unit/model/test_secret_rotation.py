"""Secrets of a contact point during a rotation."""

from datetime import timedelta

from msgspec import structs

from tidings.model.contact_point import ContactPoint
from tidings.model.secret_rotation import MAX_SECRETS, list_active_secrets, rotate_secrets
from tidings.testing.clock import START

POINT = ContactPoint("c-1", "ana", "webhook", "https://hooks.example/", attributes={"region": "eu"}, secrets=("a",))
DAY = timedelta(days=1)


def test_c73_both_secrets_are_used_during_the_overlap() -> None:
    rotated = rotate_secrets(POINT, ["b"], START, DAY)
    assert list_active_secrets(rotated, START) == ["b", "a"]
    assert list_active_secrets(rotated, START + DAY - timedelta(seconds=1)) == ["b", "a"]
    assert list_active_secrets(rotated, START + DAY) == ["b"]
    assert rotated.attributes["region"] == "eu"


def test_a_second_rotation_does_not_prolong_an_overlap() -> None:
    twice = rotate_secrets(rotate_secrets(POINT, ["b"], START, DAY), ["c"], START + DAY / 2, DAY)
    assert list_active_secrets(twice, START + DAY / 2) == ["c", "b", "a"]
    assert list_active_secrets(twice, START + DAY) == ["c", "b"]
    assert list_active_secrets(twice, START + DAY * 3 / 2) == ["c"]


def test_secrets_that_ended_are_dropped_and_their_number_is_limited() -> None:
    at_once = rotate_secrets(POINT, ["b"], START, timedelta())
    assert at_once.secrets == ("b",)
    late = rotate_secrets(rotate_secrets(POINT, ["b"], START, DAY), ["c"], START + DAY, DAY)
    assert late.secrets == ("c", "b")
    point = POINT
    for number in range(9):
        point = rotate_secrets(point, [f"s{number}"], START, DAY)
    assert point.secrets == ("s8", "s7", "s6", "s5", "s4")
    assert len(point.secrets) == MAX_SECRETS


def test_a_contact_point_that_was_never_rotated_uses_all_its_secrets() -> None:
    assert list_active_secrets(structs.replace(POINT, secrets=("a", "b")), START) == ["a", "b"]
    assert list_active_secrets(structs.replace(POINT, secrets=()), START) == []
