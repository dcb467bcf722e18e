"""The calendar entry of an event, which e-mails about it attach (RFC 5545, RFC 5546). Pure."""

from collections.abc import Mapping

from tidings.localization.instants import format_utc_instant
from tidings.packs.events.event import Event, EventStatus


def build_calendar_entry(event: Event) -> Mapping[str, object]:
    """Return the entry as the field `calendar` of an e-mail describes it (docs/howto/email.md).

    All versions of an event have one `uid`. `sequence` is the version, so a calendar ignores an older message that
    arrives late. A cancelled event is removed from calendars.
    """
    entry: dict[str, object] = {
        "uid": f"event-{event.id}@tidings",
        "sequence": event.version,
        "summary": event.title,
        "start": format_utc_instant(event.start_date),
        "status": "CANCELLED" if event.status is EventStatus.CANCELLED else "CONFIRMED",
    }
    if event.end_date is not None:
        entry["end"] = format_utc_instant(event.end_date)
    if location := ", ".join(part for part in (event.venue, event.address, event.city) if part):
        entry["location"] = location
    return entry
