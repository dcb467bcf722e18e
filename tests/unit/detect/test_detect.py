"""Change detection: what counts as a change, and which type leads."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.flow.detect.detect import detect
from tidings.flow.detect.rules import Field, Rule, RuleSet
from tidings.model.change import ValueKind
from tidings.model.priority import Priority
from tidings.packs.events.rules import RULES

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
    change = detect(BASE, BASE | changes, RULES)
    assert change is not None
    assert (change.type, change.types, change.priority, change.significant) == (type_, (type_,), priority, significant)
    assert [c.field for c in change.fields] == list(changes)


def test_the_most_important_type_leads_and_all_are_described() -> None:
    new = BASE | {"title": "x", "venue": "Hall B", "startDate": "2026-11-23T18:00:00Z", "status": "CANCELLED"}
    change = detect(BASE, new, RULES)
    assert change is not None
    assert change.type == "cancellation"
    assert change.types == ("cancellation", "time_change", "venue_change", "other")
    assert [c.field for c in change.fields] == ["status", "startDate", "venue", "title"]
    assert change.priority is Priority.URGENT


def test_an_insignificant_change_beside_a_significant_one_is_told_with_it() -> None:
    change = detect(BASE, BASE | {"title": "x", "venue": None}, RULES)
    assert change is not None
    assert change.significant
    assert [(c.field, c.old, c.new) for c in change.fields] == [
        ("venue", "Hall A", None),
        ("title", "Jazz night", "x"),
    ]


def test_coming_back_from_cancelled_is_a_status_change() -> None:
    change = detect(BASE | {"status": "CANCELLED"}, BASE, RULES)
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
def test_what_people_would_not_see_is_no_change(same: dict[str, object]) -> None:
    assert detect(BASE, BASE | same, RULES) is None


def test_empty_text_and_none_are_the_same() -> None:
    assert detect(BASE | {"venue": None}, BASE | {"venue": ""}, RULES) is None


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert detect(BASE | {"venue": "Caf\u00e9"}, BASE | {"venue": "Cafe\u0301"}, RULES) is None


def test_instants_are_reported_in_utc_with_their_kind() -> None:
    change = detect(BASE, BASE | {"startDate": "2026-11-22T20:30:00+01:00"}, RULES)
    assert change is not None
    (start,) = change.fields
    assert (start.kind, start.old, start.new) == (ValueKind.INSTANT, "2026-11-22T18:00:00Z", "2026-11-22T19:30:00Z")


def test_a_new_kind_of_object_takes_a_few_lines() -> None:
    rules = RuleSet(
        (
            Rule(
                "sold_out",
                (Field("stock"),),
                Priority.HIGH,
                when=lambda _old, new: new["stock"] == 0,
            ),
            Rule("stock_change", (Field("stock"),), Priority.LOW, significant=False),
        )
    )
    sold_out, fewer = detect({"stock": 3}, {"stock": 0}, rules), detect({"stock": 3}, {"stock": 2}, rules)
    assert sold_out is not None
    assert fewer is not None
    assert (sold_out.type, sold_out.types) == ("sold_out", ("sold_out",))
    assert (fewer.type, fewer.significant) == ("stock_change", False)


@pytest.mark.parametrize(
    "rules",
    [
        (Rule("a", (Field("x"),), Priority.LOW), Rule("a", (Field("y"),), Priority.LOW)),
        (Rule("a", (), Priority.LOW),),
    ],
)
def test_mistakes_in_rules_are_found_when_they_are_declared(rules: tuple[Rule, ...]) -> None:
    with pytest.raises(ValueError, match=r"rule|type"):
        RuleSet(rules)


@given(versions)
def test_nothing_changed_is_never_a_change(version: dict[str, object]) -> None:
    assert detect(version, dict(version), RULES) is None


@given(versions, versions)
def test_any_two_versions_have_an_answer_that_reads_both_ways(old: dict[str, object], new: dict[str, object]) -> None:
    there, back = detect(old, new, RULES), detect(new, old, RULES)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        forward = {(c.field, c.old, c.new) for c in there.fields}
        assert forward == {(c.field, c.new, c.old) for c in back.fields}
        assert len({c.field for c in there.fields}) == len(there.fields)
