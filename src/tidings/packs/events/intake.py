"""What callers may send about events: strict, with every fault named and its fix (Pydantic stays at this edge)."""

import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from tidings.errors import Fault, Invalid
from tidings.flow.detect.instants import as_instant
from tidings.packs.events.events import EventFields, EventStatus

# RFC 3339 §5.6; `fromisoformat` alone would take week dates and bare days too
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
#: C0 and C1 controls except tab and line breaks, line separators, and halves of surrogate pairs
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_BREAK = re.compile("[\t\r\n\u2028\u2029]")


def _read_instant(value: object) -> object:
    moment = as_instant(value.upper()) if isinstance(value, str) and _INSTANT.fullmatch(value) else None
    if moment is None or not 1970 <= moment.year <= 2999:
        raise PydanticCustomError(
            "instant", "must be a date and time with an offset, such as 2026-11-22T19:30:00+01:00 (years 1970 to 2999)"
        )
    return moment


def _readable(value: str) -> str:
    if _UNPRINTABLE.search(value):
        raise PydanticCustomError("text", "must not contain control characters")
    return value.strip()


def _one_line(value: str) -> str:
    if _BREAK.search(value.strip()):
        raise PydanticCustomError("text", "must be a single line")
    value = _readable(value)
    if not value:
        raise PydanticCustomError("text", "must not be blank")
    return value


def _line_or_none(value: object) -> object:
    """An empty form field means that there is none."""
    return None if isinstance(value, str) and not value.strip() else value


_INSTANT_SCHEMA = {"type": "string", "format": "date-time", "examples": ["2026-11-22T19:30:00+01:00"]}
Moment = Annotated[datetime, BeforeValidator(_read_instant), WithJsonSchema(_INSTANT_SCHEMA)]
Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
Line = Annotated[str, Field(max_length=300), AfterValidator(_one_line)]
OptionalLine = Annotated[Line | None, BeforeValidator(_line_or_none)]
#: city and host name an audience, whose arguments (and the city of a user) have at most 200 characters
OptionalName = Annotated[
    Annotated[str, Field(max_length=200), AfterValidator(_one_line)] | None, BeforeValidator(_line_or_none)
]
Prose = Annotated[str, Field(max_length=10_000), AfterValidator(_readable)]
Status = Annotated[EventStatus, Field(strict=False), WithJsonSchema({"type": "string", "enum": list(EventStatus)})]


class Body(BaseModel):
    """A request body: camelCase, no unknown fields, no silent conversions."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True, frozen=True)


class NewEvent(Body):
    """A new event."""

    title: Title
    description: Prose = ""
    start_date: Moment
    end_date: Moment | None = None
    venue: OptionalLine = None
    address: OptionalLine = None
    city: OptionalName = None
    host_id: OptionalName = None
    status: Status = EventStatus.DRAFT


def _left_out() -> Any:
    """Stand in for a field the caller left out; never read, see `fields_of`."""
    return None


class EventPatch(Body):
    """Changes of an event: fields left out stay as they are, null empties those that may be empty."""

    # a factory and not a default, because the JSON schema would show defaults, and there are none
    title: Title = Field(default_factory=_left_out)
    description: Prose = Field(default_factory=_left_out)
    start_date: Moment = Field(default_factory=_left_out)
    end_date: Moment | None = Field(default_factory=_left_out)
    venue: OptionalLine = Field(default_factory=_left_out)
    address: OptionalLine = Field(default_factory=_left_out)
    city: OptionalName = Field(default_factory=_left_out)
    host_id: OptionalName = Field(default_factory=_left_out)
    status: Status = Field(default_factory=_left_out)


class Person(Body):
    """A user, by the host product's own id."""

    user_id: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]


class HostMessage(Body):
    """The host's own words to the ticket holders."""

    title: Title
    body: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_readable)]


B = TypeVar("B", bound=Body)


def read(model: type[B], body: bytes) -> B:
    """Return a request body as its model.

    Raises Invalid, naming every wrong field; with code `malformed_json` if it is no JSON at all.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not valid JSON: {error}", code="malformed_json") from error
    return check(model, value)


def check(model: type[B], value: object) -> B:
    """Return decoded JSON as its model. Raises Invalid, naming every wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        known = ", ".join(field.alias or name for name, field in model.model_fields.items())
        faults = tuple(_fault(detail, known) for detail in error.errors(include_url=False, include_context=True))
        raise Invalid("; ".join(f"{f.field}: {f.message}" for f in faults), faults=faults) from error


def fields_of(model: NewEvent | EventPatch) -> EventFields:
    """Return what the caller really set, under the names of the record."""
    given: EventFields = {}
    for name in model.model_fields_set:
        given[name] = getattr(model, name)  # type: ignore[literal-required]  # the models have the record's fields
    return given


def _fault(detail: ErrorDetails, known: str) -> Fault:
    path = ".".join(str(part) for part in detail["loc"]) or "body"
    limits = detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            message = "is required"
        case "extra_forbidden":
            message = f"is not known here; known are: {known}"
        case "string_type":
            message = "must be a string"
        case "string_too_long":
            message = f"must have at most {limits.get('max_length')} characters"
        case "string_too_short":
            message = "must not be empty"
        case "enum":
            message = f"must be one of {', '.join(EventStatus)}"
        case "model_type":
            message = "must be a JSON object"
        case _:
            message = detail["msg"]
    return Fault(path, message)
