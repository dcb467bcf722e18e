"""Change detection: what counts as a change, and which type comes first."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.changes.detector import detect
from tidings.changes.rules import ChangeRule, ChangeRuleSet, WatchedField
from tidings.model.change import ValueKind
from tidings.model.priority import Priority
from tidings.packs.events.notification_rules import CHANGE_RULES

BASE: dict[str, object] = {
    "title": "Jazz night",
    "description": "Two sets.",
    "startDate": "2026-11-22T18:00:00Z",
    "endDate": "2026-11-22T21:00:00Z",
    "venue": "Hall A",
    "address": "1 Main Street",
    "city": "Basel",
    "hostId": "host-1",
    "status": "ACTIVE",
}

values = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.integers(),
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.booleans(),
)
versions = st.dictionaries(st.sampled_from(sorted(BASE)), values)


@pytest.mark.parametrize(
    ("changes", "type_", "priority", "significant"),
    [
        ({"startDate": "2026-11-22T19:30:00Z"}, "time_change", Priority.HIGH, True),
        ({"endDate": None}, "time_change", Priority.HIGH, True),
        ({"venue": "Hall B"}, "venue_change", Priority.HIGH, True),
        ({"address": None}, "venue_change", Priority.HIGH, True),
        ({"status": "CANCELLED"}, "cancellation", Priority.URGENT, True),
        ({"status": "COMPLETED"}, "status_change", Priority.NORMAL, True),
        ({"title": "Jazz morning"}, "other", Priority.LOW, False),
        ({"description": "Three sets."}, "other", Priority.LOW, False),
        ({"city": "Bern"}, "other", Priority.LOW, False),
        ({"hostId": "host-2"}, "other", Priority.LOW, False),
    ],
)
def test_each_field_has_its_type(changes: dict[str, object], type_: str, priority: Priority, significant: bool) -> None:
    change = detect(BASE, BASE | changes, CHANGE_RULES)
    assert change is not None
    assert (change.type, change.types, change.priority, change.is_significant) == (
        type_,
        (type_,),
        priority,
        significant,
    )
    assert [c.field for c in change.fields] == list(changes)


def test_the_most_important_type_comes_first_and_all_are_included() -> None:
    new = BASE | {"title": "x", "venue": "Hall B", "startDate": "2026-11-23T18:00:00Z", "status": "CANCELLED"}
    change = detect(BASE, new, CHANGE_RULES)
    assert change is not None
    assert change.type == "cancellation"
    assert change.types == ("cancellation", "time_change", "venue_change", "other")
    assert [c.field for c in change.fields] == ["status", "startDate", "venue", "title"]
    assert change.priority is Priority.URGENT


def test_an_insignificant_change_is_included_with_a_significant_one() -> None:
    change = detect(BASE, BASE | {"title": "x", "venue": None}, CHANGE_RULES)
    assert change is not None
    assert change.is_significant
    assert [(c.field, c.old, c.new) for c in change.fields] == [
        ("venue", "Hall A", None),
        ("title", "Jazz night", "x"),
    ]


def test_coming_back_from_cancelled_is_a_status_change() -> None:
    change = detect(BASE | {"status": "CANCELLED"}, BASE, CHANGE_RULES)
    assert change is not None
    assert change.type == "status_change"


@pytest.mark.parametrize(
    "same",
    [
        {"startDate": "2026-11-22T19:00:00+01:00"},
        {"startDate": datetime(2026, 11, 22, 18, tzinfo=UTC)},
        {"startDate": datetime(2026, 11, 22, 10, tzinfo=timezone(timedelta(hours=-8)))},
        {"startDate": "2026-11-22T18:00:00.000000Z"},
        {"venue": " Hall A "},
    ],
)
def test_an_invisible_difference_is_no_change(same: dict[str, object]) -> None:
    assert detect(BASE, BASE | same, CHANGE_RULES) is None


def test_empty_text_and_none_are_the_same() -> None:
    assert detect(BASE | {"venue": None}, BASE | {"venue": ""}, CHANGE_RULES) is None


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert detect(BASE | {"venue": "Caf\u00e9"}, BASE | {"venue": "Cafe\u0301"}, CHANGE_RULES) is None


def test_instants_are_reported_in_utc_with_their_kind() -> None:
    change = detect(BASE, BASE | {"startDate": "2026-11-22T20:30:00+01:00"}, CHANGE_RULES)
    assert change is not None
    (start,) = change.fields
    assert (start.kind, start.old, start.new) == (ValueKind.INSTANT, "2026-11-22T18:00:00Z", "2026-11-22T19:30:00Z")


def test_rules_for_a_new_kind_of_object() -> None:
    rules = ChangeRuleSet(
        (
            ChangeRule(
                "sold_out",
                (WatchedField("stock"),),
                Priority.HIGH,
                condition=lambda _old, new: new["stock"] == 0,
            ),
            ChangeRule("stock_change", (WatchedField("stock"),), Priority.LOW, is_significant=False),
        )
    )
    sold_out, fewer = detect({"stock": 3}, {"stock": 0}, rules), detect({"stock": 3}, {"stock": 2}, rules)
    assert sold_out is not None
    assert fewer is not None
    assert (sold_out.type, sold_out.types) == ("sold_out", ("sold_out",))
    assert (fewer.type, fewer.is_significant) == ("stock_change", False)


@pytest.mark.parametrize(
    "rules",
    [
        (ChangeRule("a", (WatchedField("x"),), Priority.LOW), ChangeRule("a", (WatchedField("y"),), Priority.LOW)),
        (ChangeRule("a", (), Priority.LOW),),
    ],
)
def test_mistakes_in_rules_are_found_when_they_are_declared(rules: tuple[ChangeRule, ...]) -> None:
    with pytest.raises(ValueError, match=r"rule|type"):
        ChangeRuleSet(rules)


@given(versions)
def test_nothing_changed_is_never_a_change(version: dict[str, object]) -> None:
    assert detect(version, dict(version), CHANGE_RULES) is None


@given(versions, versions)
def test_detection_is_symmetric_for_any_two_versions(old: dict[str, object], new: dict[str, object]) -> None:
    there, back = detect(old, new, CHANGE_RULES), detect(new, old, CHANGE_RULES)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        forward = {(c.field, c.old, c.new) for c in there.fields}
        assert forward == {(c.field, c.new, c.old) for c in back.fields}
        assert len({c.field for c in there.fields}) == len(there.fields)
