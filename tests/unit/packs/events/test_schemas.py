"""Request bodies of the pack: each error names the field and the fix."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.errors import ValidationFailed
from tidings.packs.events.event import EventStatus
from tidings.packs.events.schemas import AttendeeRequest, EventPatch, HostMessage, NewEvent, to_event_fields
from tidings.schemas.json_body import parse_body, validate_body

GOOD: dict[str, object] = {"title": "Jazz night", "startDate": "2026-11-22T19:00:00+01:00"}


def errors(
    value: object, model: type[NewEvent | EventPatch | AttendeeRequest | HostMessage] = NewEvent
) -> dict[str, str]:
    with pytest.raises(ValidationFailed) as refused:
        validate_body(value, model)
    return {error.field: error.message for error in refused.value.field_errors}


def test_a_title_and_a_start_are_enough() -> None:
    assert to_event_fields(validate_body(GOOD, NewEvent)) == {
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
        ({"timezone": "Europe/Nowhere"}, "timezone", "must be an IANA time-zone name"),
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
def test_errors_name_the_field_and_the_fix(extra: dict[str, object], field: str, message: str) -> None:
    found = errors(GOOD | extra)
    assert list(found) == [field]
    assert found[field].startswith(message)


def test_all_errors_are_reported_at_once() -> None:
    assert set(errors({"venue": 1, "colour": "red"})) == {"title", "startDate", "venue", "colour"}


def test_a_patch_has_only_the_given_fields() -> None:
    patch = validate_body({"venue": None, "endDate": None, "status": "CANCELLED"}, EventPatch)
    assert to_event_fields(patch) == {"venue": None, "end_date": None, "status": EventStatus.CANCELLED}
    assert to_event_fields(validate_body({}, EventPatch)) == {}


@pytest.mark.parametrize("field", ["title", "description", "startDate", "status"])
def test_a_patch_cannot_empty_what_every_event_has(field: str) -> None:
    assert list(errors({field: None}, EventPatch)) == [field]


def test_an_empty_form_field_means_none() -> None:
    assert to_event_fields(validate_body({"venue": " "}, EventPatch)) == {"venue": None}


def test_an_attendee_is_a_user_id() -> None:
    assert validate_body({"userId": "ana"}, AttendeeRequest).user_id == "ana"
    for odd in ("x" * 201, "", "a/b", "me", ".", "..", " ana", "a\nb", 7):
        assert list(errors({"userId": odd}, AttendeeRequest)) == ["userId"]
    assert list(errors({}, AttendeeRequest)) == ["userId"]


def test_a_message_has_a_title_and_a_body() -> None:
    assert validate_body({"title": "Doors", "body": "Open.\nSee you!"}, HostMessage).body == "Open.\nSee you!"
    assert set(errors({"title": " ", "body": ""}, HostMessage)) == {"title", "body"}


@pytest.mark.parametrize("model", [NewEvent, EventPatch, AttendeeRequest, HostMessage])
def test_bodies_are_documented_without_references(
    model: type[NewEvent | EventPatch | AttendeeRequest | HostMessage],
) -> None:
    text = json.dumps(model.model_json_schema())
    assert "$ref" not in text
    assert '"additionalProperties": false' in text


def test_a_patch_documents_no_defaults() -> None:
    assert '"default"' not in json.dumps(EventPatch.model_json_schema())


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["title", "startDate", "venue", "x"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_accepted_or_rejected_with_its_field(body: bytes) -> None:
    with suppress(ValidationFailed):
        parse_body(body, EventPatch)
