"""Reads CloudEvents 1.0 from HTTP requests, in the structured and in the binary content mode (HTTP protocol binding).

Sources: CloudEvents 1.0.2 §3 (attributes), and its HTTP protocol binding §3 (content modes).
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Final
from urllib.parse import unquote

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from tidings.errors import FieldError, ValidationFailed
from tidings.model.trigger import DomainEvent
from tidings.schemas.field_types import check_single_line
from tidings.schemas.json_body import RequestModel, parse_json, validate_body

STRUCTURED_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
HEADER_PREFIX: Final = "ce-"
#: events of one batch
MAX_EVENTS: Final = 1000
SPEC_VERSION: Final = "1.0"

Attribute = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(check_single_line)]


class CloudEvent(RequestModel):
    """A CloudEvent in JSON. Extension attributes are accepted and not used."""

    # the names of the specification, all lower case
    model_config = ConfigDict(alias_generator=None, extra="allow")

    specversion: Annotated[str, Field(pattern=r"^1\.0$")]
    id: Attribute
    source: Attribute
    type: Attribute
    subject: Attribute | None = None
    datacontenttype: Attribute | None = None
    data: JsonValue = None
    data_base64: str | None = Field(None, description="JSON, encoded in base64")


def read_cloud_event(headers: Mapping[str, str], body: bytes) -> DomainEvent:
    """Return the event of a request. headers: names in lower case.

    Raises ValidationFailed naming each wrong attribute, such as `type` or `ce-type`, and the fix.
    """
    if _read_media_type(headers) == STRUCTURED_TYPE or not any(name.startswith(HEADER_PREFIX) for name in headers):
        return _to_domain_event(validate_body(parse_json(body), CloudEvent))
    attributes: dict[str, object] = {
        name.removeprefix(HEADER_PREFIX): unquote(value)
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX)
    }
    # JSON is the only content type that reaches this route
    attributes.pop("datacontenttype", None)
    try:
        event = validate_body({**attributes, "data": parse_json(body) if body.strip() else None}, CloudEvent)
    except ValidationFailed as error:
        if not error.field_errors:
            raise
        raise ValidationFailed.from_errors(
            [FieldError(HEADER_PREFIX + one.field, one.message) for one in error.field_errors], code=error.code
        ) from None
    return _to_domain_event(event)


def is_batch(headers: Mapping[str, str]) -> bool:
    """Return whether a request has a batch of events. headers: names in lower case."""
    return _read_media_type(headers) == BATCH_TYPE


def read_cloud_events(body: bytes) -> Sequence[DomainEvent | ValidationFailed]:
    """Return the events of a batch (JSON event format §4), each with what is wrong with it instead if it is invalid.

    Raises ValidationFailed if the body is not an array of at most `MAX_EVENTS` events.
    """
    found = parse_json(body)
    if not isinstance(found, list) or len(found) > MAX_EVENTS:
        raise ValidationFailed.for_field("", f"must be an array of at most {MAX_EVENTS} events")
    events: list[DomainEvent | ValidationFailed] = []
    for one in found:
        try:
            events.append(_to_domain_event(validate_body(one, CloudEvent)))
        except ValidationFailed as error:
            events.append(error)
    return events


def _read_media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _to_domain_event(event: CloudEvent) -> DomainEvent:
    data: object = event.data
    if event.data_base64 is not None:
        if data is not None:
            raise ValidationFailed.for_field("data_base64", "must not be combined with data")
        try:
            decoded = base64.b64decode(event.data_base64, validate=True)
        except ValueError as error:  # also of text that is not ASCII
            raise ValidationFailed.for_field("data_base64", "must be base64") from error
        data = parse_json(decoded)
    return DomainEvent(event.id, event.source, event.type, event.subject, data)
