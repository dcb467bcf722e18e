"""Request bodies of the events API. Rules common to all request bodies are in `tidings.schemas`."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from tidings.packs.events.event import EventFields, EventStatus
from tidings.schemas.field_types import Instant, Label, TimeZone, UserId, check_printable, check_single_line
from tidings.schemas.json_body import RequestModel


def _blank_to_none(value: object) -> object:
    """Treat an empty form field as no value."""
    return None if isinstance(value, str) and not value.strip() else value


OptionalShortText = Annotated[
    Annotated[str, Field(max_length=300), AfterValidator(check_single_line)] | None, BeforeValidator(_blank_to_none)
]
#: for city and host: they are audience arguments, which have at most 200 characters (as has a user's city)
OptionalLabel = Annotated[Label | None, BeforeValidator(_blank_to_none)]
OptionalTimeZone = Annotated[TimeZone | None, BeforeValidator(_blank_to_none)]
LongText = Annotated[str, Field(max_length=10_000), AfterValidator(check_printable)]
EventStatusField = Annotated[
    EventStatus, Field(strict=False), WithJsonSchema({"type": "string", "enum": list(EventStatus)})
]


class NewEvent(RequestModel):
    """A new event."""

    title: Label
    description: LongText = ""
    start_date: Instant
    end_date: Instant | None = None
    venue: OptionalShortText = None
    address: OptionalShortText = None
    city: OptionalLabel = None
    timezone: OptionalTimeZone = None
    host_id: OptionalLabel = None
    status: EventStatusField = EventStatus.DRAFT


def omitted() -> Any:
    """Return a placeholder for a field that the caller omitted. It is never read, see `to_event_fields`."""
    return None


class EventPatch(RequestModel):
    """Changes of an event: omitted fields stay unchanged, null clears an optional field."""

    # a factory and not a default, because the JSON schema would show a default that does not exist
    title: Label = Field(default_factory=omitted)
    description: LongText = Field(default_factory=omitted)
    start_date: Instant = Field(default_factory=omitted)
    end_date: Instant | None = Field(default_factory=omitted)
    venue: OptionalShortText = Field(default_factory=omitted)
    address: OptionalShortText = Field(default_factory=omitted)
    city: OptionalLabel = Field(default_factory=omitted)
    timezone: OptionalTimeZone = Field(default_factory=omitted)
    host_id: OptionalLabel = Field(default_factory=omitted)
    status: EventStatusField = Field(default_factory=omitted)


class AttendeeRequest(RequestModel):
    """A user, by the host product's id."""

    user_id: UserId


class HostMessage(RequestModel):
    """A message of the host to the ticket holders."""

    title: Label
    body: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(check_printable)]


def to_event_fields(model: RequestModel) -> EventFields:
    """Return the fields that the caller set, under the names of the record.

    `model` must have only fields of the record, such as `EventPatch`.
    """
    fields: EventFields = {}
    for name in model.model_fields_set:
        fields[name] = getattr(model, name)  # type: ignore[literal-required]  # the models have the record's fields
    return fields
