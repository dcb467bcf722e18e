"""The calendar attachment of a message about an event (RFC 5545, RFC 5546): moves and cancels with it."""

from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from tidings.channels.email.mime import Part, clean_text
from tidings.errors import ValidationFailed

FILENAME: Final = "event.ics"


class CalendarEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event as a template's field `calendar` describes it, in JSON."""

    #: the same for all messages about the event
    uid: str
    #: greater with each change: a calendar ignores an older state that arrives late
    sequence: int
    summary: str
    #: with an offset
    start: datetime
    end: datetime | None = None
    location: str | None = None
    url: str | None = None
    description: str | None = None
    status: Literal["CONFIRMED", "CANCELLED"] = "CONFIRMED"


def parse_calendar_event(text: str) -> CalendarEvent:
    """Return the event of a template's field. Raises ValidationFailed."""
    try:
        event = msgspec.json.decode(text, type=CalendarEvent)
    except msgspec.MsgspecError as error:
        raise ValidationFailed.for_field("calendar", f"is not an event: {error}") from error
    if event.start.tzinfo is None or (event.end is not None and event.end.tzinfo is None):
        raise ValidationFailed.for_field("calendar", "start and end must have an offset, such as 2026-06-01T20:00:00Z")
    if not event.uid or event.sequence < 0:
        raise ValidationFailed.for_field("calendar", "uid must not be empty, and sequence must be 0 or greater")
    return event


def build_calendar(event: CalendarEvent, stamp: datetime, organizer: str) -> Part:
    """Return the attachment. organizer: e-mail address of the sender. stamp: when the message is made, in UTC."""
    # imported here: few messages have a calendar, and loading the library slows the start of every process
    import icalendar

    method = "CANCEL" if event.status == "CANCELLED" else "PUBLISH"
    calendar, entry = icalendar.Calendar(), icalendar.Event()
    calendar.add("prodid", "-//Tidings//EN")
    calendar.add("version", "2.0")
    calendar.add("method", method)
    entry.add("uid", clean_text(event.uid))
    entry.add("sequence", event.sequence)
    entry.add("dtstamp", stamp.astimezone(UTC))
    entry.add("dtstart", event.start.astimezone(UTC))
    if event.end is not None:
        entry.add("dtend", event.end.astimezone(UTC))
    entry.add("summary", event.summary)
    entry.add("status", event.status)
    entry.add("organizer", icalendar.vCalAddress(f"mailto:{organizer}"))
    for name, value in (("location", event.location), ("url", event.url), ("description", event.description)):
        if value:
            entry.add(name, value)
    calendar.add_component(entry)
    return Part(f"text/calendar; method={method}; name={FILENAME}", calendar.to_ical().decode(), FILENAME)
