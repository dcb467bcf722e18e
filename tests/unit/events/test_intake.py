"""What callers may send: every fault is named, with its fix."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.edge.bodies import check, read
from tidings.edge.describe import takes
from tidings.errors import Invalid
from tidings.packs.events.events import EventStatus
from tidings.packs.events.intake import EventPatch, HostMessage, NewEvent, Person, fields_of

GOOD: dict[str, object] = {"title": "Jazz night", "startDate": "2026-11-22T19:00:00+01:00"}


def faults(value: object, model: type[NewEvent | EventPatch | Person | HostMessage] = NewEvent) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        check(value, model)
    return {fault.field: fault.message for fault in refused.value.faults}


def test_a_title_and_a_start_are_enough() -> None:
    assert fields_of(check(GOOD, NewEvent)) == {
        "title": "Jazz night",
        "start_date": datetime(2026, 11, 22, 18, tzinfo=UTC),
    }


@pytest.mark.parametrize(
    ("extra", "field", "message"),
    [
        ({"title": ""}, "title", "must not be empty"),
        ({"title": "  "}, "title", "must not be blank"),
        ({"title": None}, "title", "must be a string"),
        ({"title": 7}, "title", "must be a string"),
        ({"title": "x" * 201}, "title", "must have at most 200 characters"),
        ({"title": "two\nlines"}, "title", "must be a single line"),
        ({"title": "nul\0"}, "title", "must not contain control characters"),
        ({"description": "x" * 10_001}, "description", "must have at most 10000 characters"),
        ({"description": "bell\x07"}, "description", "must not contain control characters"),
        ({"venue": "x" * 301}, "venue", "must have at most 300 characters"),
        ({"city": "x" * 201}, "city", "must have at most 200 characters"),
        ({"startDate": "2026-11-22T19:00:00"}, "startDate", "must be a date and time with an offset"),
        ({"endDate": 1795374000}, "endDate", "must be a date and time with an offset"),
        ({"hostId": ["h"]}, "hostId", "must be a string"),
        ({"status": "active"}, "status", "must be one of DRAFT, ACTIVE, CANCELLED, COMPLETED"),
        ({"status": None}, "status", "must be one of DRAFT, ACTIVE, CANCELLED, COMPLETED"),
        ({"start_date": "2026-11-22T19:00:00Z"}, "start_date", "is not a known field; known are: title, description"),
        ({"id": "mine"}, "id", "is not a known field"),
    ],
)
def test_faults_name_the_field_and_the_fix(extra: dict[str, object], field: str, message: str) -> None:
    found = faults(GOOD | extra)
    assert list(found) == [field]
    assert found[field].startswith(message)


def test_all_faults_are_told_at_once() -> None:
    assert set(faults({"venue": 1, "colour": "red"})) == {"title", "startDate", "venue", "colour"}


def test_a_patch_holds_only_what_was_given() -> None:
    patch = check({"venue": None, "endDate": None, "status": "CANCELLED"}, EventPatch)
    assert fields_of(patch) == {"venue": None, "end_date": None, "status": EventStatus.CANCELLED}
    assert fields_of(check({}, EventPatch)) == {}


@pytest.mark.parametrize("field", ["title", "description", "startDate", "status"])
def test_a_patch_cannot_empty_what_every_event_has(field: str) -> None:
    assert list(faults({field: None}, EventPatch)) == [field]


def test_an_empty_form_field_means_none() -> None:
    assert fields_of(check({"venue": " "}, EventPatch)) == {"venue": None}


def test_a_person_is_a_user_id() -> None:
    assert check({"userId": "ana"}, Person).user_id == "ana"
    for odd in ("x" * 201, "", "a/b", "me", ".", "..", " ana", "a\nb", 7):
        assert list(faults({"userId": odd}, Person)) == ["userId"]
    assert list(faults({}, Person)) == ["userId"]


def test_a_message_has_a_title_and_a_body() -> None:
    assert check({"title": "Doors", "body": "Open.\nSee you!"}, HostMessage).body == "Open.\nSee you!"
    assert set(faults({"title": " ", "body": ""}, HostMessage)) == {"title", "body"}


@pytest.mark.parametrize("model", [NewEvent, EventPatch, Person, HostMessage])
def test_bodies_are_documented_without_references(model: type[NewEvent | EventPatch | Person | HostMessage]) -> None:
    text = json.dumps(takes(model))
    assert "$ref" not in text
    assert '"additionalProperties": false' in text


def test_a_patch_documents_no_defaults() -> None:
    assert '"default"' not in json.dumps(takes(EventPatch))


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["title", "startDate", "venue", "x"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_taken_or_refused_by_name(body: bytes) -> None:
    with suppress(Invalid):
        read(body, EventPatch)
