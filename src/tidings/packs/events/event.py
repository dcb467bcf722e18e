"""The event record, its states and the allowed transitions between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypedDict

from pydantic.alias_generators import to_camel

from tidings.errors import Conflict, ValidationFailed
from tidings.localization.instants import format_utc_instant


class EventStatus(StrEnum):
    """The state of an event."""

    #: not published; it never causes a notification
    DRAFT = "DRAFT"
    #: public
    ACTIVE = "ACTIVE"
    CANCELLED = "CANCELLED"
    #: over
    COMPLETED = "COMPLETED"


#: state → allowed next states. A completed event can be reopened (after a mistake) but not cancelled
ALLOWED_TRANSITIONS: Mapping[EventStatus, frozenset[EventStatus]] = {
    EventStatus.DRAFT: frozenset({EventStatus.ACTIVE, EventStatus.CANCELLED}),
    EventStatus.ACTIVE: frozenset({EventStatus.DRAFT, EventStatus.CANCELLED, EventStatus.COMPLETED}),
    EventStatus.CANCELLED: frozenset({EventStatus.ACTIVE, EventStatus.DRAFT}),
    EventStatus.COMPLETED: frozenset({EventStatus.ACTIVE}),
}


class EventFields(TypedDict, total=False):
    """The fields that a caller can set. A missing field stays unchanged."""

    title: str
    description: str
    start_date: datetime
    end_date: datetime | None
    venue: str | None
    address: str | None
    city: str | None
    timezone: str | None
    host_id: str | None
    status: EventStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event as stored. Fields with a default are optional when it is created."""

    id: str
    title: str
    description: str = ""
    #: aware, UTC
    start_date: datetime
    #: aware, UTC; after `start_date`
    end_date: datetime | None = None
    venue: str | None = None
    address: str | None = None
    city: str | None = None
    #: IANA name of the zone of the venue; None = that of the installation
    timezone: str | None = None
    #: the host product's id of the organiser
    host_id: str | None = None
    status: EventStatus = EventStatus.DRAFT
    #: when it became ACTIVE for the first time; None = never. Set once, so that an event is announced only once
    first_published_at: datetime | None = None
    #: 1 when created, incremented by each update
    version: int = 1
    created_at: datetime
    updated_at: datetime


def check_transition(old: EventStatus, new: EventStatus) -> None:
    """Raise Conflict with the allowed states unless the transition is allowed."""
    if new is not old and new not in ALLOWED_TRANSITIONS[old]:
        allowed = ", ".join(sorted(ALLOWED_TRANSITIONS[old]))
        raise Conflict(f"an event that is {old} cannot become {new}; allowed: {allowed}", code="status_not_allowed")


def check_times(event: Event) -> None:
    """Raise ValidationFailed for `endDate` unless the event ends after it starts."""
    if event.end_date is not None and event.end_date <= event.start_date:
        start, end = format_utc_instant(event.start_date), format_utc_instant(event.end_date)
        raise ValidationFailed.for_field(
            "endDate",
            f"must be after startDate ({start}), but is {end}; send both together when moving an event, "
            "or null for no end",
        )


def change_snapshot(event: Event) -> dict[str, object]:
    """Return the fields that change detection compares, under their API names."""
    return {to_camel(name): _to_json_value(getattr(event, name)) for name in EventFields.__annotations__}


def _to_json_value(value: object) -> object:
    match value:
        case datetime():
            return format_utc_instant(value)
        case EventStatus():
            return str(value)
    return value
