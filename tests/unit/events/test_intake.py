"""What callers may send: every fault is named, with its fix."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.errors import Invalid
from tidings.packs.events.bodies import documented
from tidings.packs.events.events import EventStatus
from tidings.packs.events.intake import EventPatch, HostMessage, NewEvent, Person, check, fields_of, read

GOOD: dict[str, object] = {"title": "Jazz night", "startDate": "2026-11-22T19:00:00+01:00"}


def faults(value: object, model: type[NewEvent | EventPatch | Person | HostMessage] = NewEvent) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        check(model, value)
    return {fault.field: fault.message for fault in refused.value.faults}


def test_a_title_and_a_start_are_enough() -> None:
    assert fields_of(check(NewEvent, GOOD)) == {
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
        ({"hostId": ["h"]}, "hostId", "must be a string"),
        ({"status": "active"}, "status", "must be one of DRAFT, ACTIVE, CANCELLED, COMPLETED"),
        ({"status": None}, "status", "must be one of DRAFT, ACTIVE, CANCELLED, COMPLETED"),
        ({"start_date": "2026-11-22T19:00:00Z"}, "start_date", "is not known here; known are: title, description"),
        ({"id": "mine"}, "id", "is not known here"),
    ],
)
def test_faults_name_the_field_and_the_fix(extra: dict[str, object], field: str, message: str) -> None:
    found = faults(GOOD | extra)
    assert list(found) == [field]
    assert found[field].startswith(message)


@pytest.mark.parametrize(
    "instant",
    [
        "2026-11-22T19:00:00",
        "2026-11-22",
        "2026-W47-7T19:00:00Z",
        "2026-13-22T19:00:00Z",
        "2026-11-22T25:00:00Z",
        "tomorrow",
        "",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-14:00",
        "٢٠٢٦-11-22T19:00:00Z",
        1795374000,
        None,
    ],
)
def test_instants_need_a_date_a_time_and_an_offset(instant: object) -> None:
    assert "offset" in faults(GOOD | {"startDate": instant})["startDate"]


@pytest.mark.parametrize(
    "instant",
    ["2026-11-22T18:00:00Z", "2026-11-22t18:00z", "2026-11-22 13:00:00.000-05:00", "2026-11-22T18:00:00.000000000Z"],
)
def test_instants_are_read_as_rfc_3339_writes_them(instant: str) -> None:
    assert check(NewEvent, GOOD | {"startDate": instant}).start_date == datetime(2026, 11, 22, 18, tzinfo=UTC)


def test_all_faults_are_told_at_once() -> None:
    assert set(faults({"venue": 1, "colour": "red"})) == {"title", "startDate", "venue", "colour"}


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_a_body_is_an_object(value: object) -> None:
    assert faults(value) == {"body": "must be a JSON object"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b"\xff", b'{"title": "\\ud800"}', b"[" * 99_999]
)
def test_what_is_no_json_has_its_own_code(body: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        read(NewEvent, body)
    assert refused.value.code == "malformed_json"


def test_a_patch_holds_only_what_was_given() -> None:
    patch = check(EventPatch, {"venue": None, "endDate": None, "status": "CANCELLED"})
    assert fields_of(patch) == {"venue": None, "end_date": None, "status": EventStatus.CANCELLED}
    assert fields_of(check(EventPatch, {})) == {}


@pytest.mark.parametrize("field", ["title", "description", "startDate", "status"])
def test_a_patch_cannot_empty_what_every_event_has(field: str) -> None:
    assert list(faults({field: None}, EventPatch)) == [field]


def test_an_empty_form_field_means_none() -> None:
    assert fields_of(check(EventPatch, {"venue": " "})) == {"venue": None}


def test_a_person_is_a_user_id() -> None:
    assert check(Person, {"userId": "ana"}).user_id == "ana"
    assert list(faults({"userId": "x" * 201}, Person)) == ["userId"]
    assert list(faults({}, Person)) == ["userId"]


def test_a_message_has_a_title_and_a_body() -> None:
    assert check(HostMessage, {"title": "Doors", "body": "Open.\nSee you!"}).body == "Open.\nSee you!"
    assert set(faults({"title": " ", "body": ""}, HostMessage)) == {"title", "body"}


@pytest.mark.parametrize("model", [NewEvent, EventPatch, Person, HostMessage])
def test_bodies_are_documented_without_references(model: type[NewEvent | EventPatch | Person | HostMessage]) -> None:
    text = json.dumps(documented(model))
    assert "$ref" not in text
    assert '"additionalProperties": false' in text


def test_a_patch_documents_no_defaults() -> None:
    assert '"default"' not in json.dumps(documented(EventPatch))


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["title", "startDate", "venue", "x"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_taken_or_refused_by_name(body: bytes) -> None:
    with suppress(Invalid):
        read(EventPatch, body)
