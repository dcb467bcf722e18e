"""What callers may send about events; the rules of all request bodies are in `tidings.edge`."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from tidings.edge.bodies import Body
from tidings.edge.fields import Instant, UserId
from tidings.edge.text import Label, one_line, readable
from tidings.packs.events.events import EventFields, EventStatus


def _none_if_blank(value: object) -> object:
    """An empty form field means that there is none."""
    return None if isinstance(value, str) and not value.strip() else value


Line = Annotated[
    Annotated[str, Field(max_length=300), AfterValidator(one_line)] | None, BeforeValidator(_none_if_blank)
]
#: city and host name an audience, whose arguments (and the city of a user) have at most 200 characters
Name = Annotated[Label | None, BeforeValidator(_none_if_blank)]
Prose = Annotated[str, Field(max_length=10_000), AfterValidator(readable)]
Status = Annotated[EventStatus, Field(strict=False), WithJsonSchema({"type": "string", "enum": list(EventStatus)})]


class NewEvent(Body):
    """A new event."""

    title: Label
    description: Prose = ""
    start_date: Instant
    end_date: Instant | None = None
    venue: Line = None
    address: Line = None
    city: Name = None
    host_id: Name = None
    status: Status = EventStatus.DRAFT


def _left_out() -> Any:
    """Stand in for a field the caller left out; never read, see `fields_of`."""
    return None


class EventPatch(Body):
    """Changes of an event: fields left out stay as they are, null empties those that may be empty."""

    # a factory and not a default, because the JSON schema would show defaults, and there are none
    title: Label = Field(default_factory=_left_out)
    description: Prose = Field(default_factory=_left_out)
    start_date: Instant = Field(default_factory=_left_out)
    end_date: Instant | None = Field(default_factory=_left_out)
    venue: Line = Field(default_factory=_left_out)
    address: Line = Field(default_factory=_left_out)
    city: Name = Field(default_factory=_left_out)
    host_id: Name = Field(default_factory=_left_out)
    status: Status = Field(default_factory=_left_out)


class Person(Body):
    """A user, by the host product's own id."""

    user_id: UserId


class HostMessage(Body):
    """The host's own words to the ticket holders."""

    title: Label
    body: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(readable)]


def fields_of(model: NewEvent | EventPatch) -> EventFields:
    """Return what the caller really set, under the names of the record."""
    given: EventFields = {}
    for name in model.model_fields_set:
        given[name] = getattr(model, name)  # type: ignore[literal-required]  # the models have the record's fields
    return given
