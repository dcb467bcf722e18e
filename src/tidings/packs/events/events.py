"""An event, its states, and what a change of state is allowed to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypedDict

from tidings.errors import Conflict, Invalid
from tidings.flow.detect.instants import written


class EventStatus(StrEnum):
    """Where an event stands."""

    #: being written; nobody is ever notified about it
    DRAFT = "DRAFT"
    #: public
    ACTIVE = "ACTIVE"
    CANCELLED = "CANCELLED"
    #: over
    COMPLETED = "COMPLETED"


#: from → where it may go. An event that is over can be opened again (a slip), but not cancelled after the fact
ALLOWED: Mapping[EventStatus, frozenset[EventStatus]] = {
    EventStatus.DRAFT: frozenset({EventStatus.ACTIVE, EventStatus.CANCELLED}),
    EventStatus.ACTIVE: frozenset({EventStatus.DRAFT, EventStatus.CANCELLED, EventStatus.COMPLETED}),
    EventStatus.CANCELLED: frozenset({EventStatus.ACTIVE, EventStatus.DRAFT}),
    EventStatus.COMPLETED: frozenset({EventStatus.ACTIVE}),
}


class EventFields(TypedDict, total=False):
    """What a caller may set. A field that is left out stays as it is."""

    title: str
    description: str
    start_date: datetime
    end_date: datetime | None
    venue: str | None
    address: str | None
    city: str | None
    host_id: str | None
    status: EventStatus


@dataclass(frozen=True, slots=True)
class Event:
    """One event as stored."""

    id: str
    title: str
    description: str
    #: aware, UTC
    start_date: datetime
    #: aware, UTC; after `start_date`
    end_date: datetime | None
    venue: str | None
    address: str | None
    city: str | None
    #: the host product's id of who runs it
    host_id: str | None
    status: EventStatus
    #: when it became ACTIVE for the first time; None = never. Set once, so that nothing is announced twice
    first_published_at: datetime | None
    #: 1 when created, one more with each update
    version: int
    created_at: datetime
    updated_at: datetime


def check_move(old: EventStatus, new: EventStatus) -> None:
    """Raise Conflict, naming what is possible, unless an event may go from one status to the other."""
    if new is not old and new not in ALLOWED[old]:
        possible = ", ".join(sorted(ALLOWED[old]))
        raise Conflict(f"an event that is {old} cannot become {new}; possible: {possible}", code="status_not_allowed")


def check_times(event: Event) -> None:
    """Raise Invalid naming `endDate` unless the event ends after it starts."""
    if event.end_date is not None and event.end_date <= event.start_date:
        raise Invalid.field(
            "endDate",
            f"must be after startDate ({written(event.start_date)}), but is {written(event.end_date)}; "
            "send both together when moving an event, or null for no end",
        )


def watched(event: Event) -> dict[str, object]:
    """Return the version that change detection compares, under the names of the API."""
    return {
        "title": event.title,
        "description": event.description,
        "startDate": written(event.start_date),
        "endDate": None if event.end_date is None else written(event.end_date),
        "venue": event.venue,
        "address": event.address,
        "city": event.city,
        "hostId": event.host_id,
        "status": event.status.value,
    }
