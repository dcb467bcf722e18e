"""The demo's events: three published ones and a draft."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """One event with a start time relative to the day of the demo's first start."""

    id: str
    title: str
    description: str
    #: days after the first start
    days: int
    #: hour of the day, UTC
    hour: int
    duration_hours: int
    venue: str
    address: str
    city: str
    status: str = "ACTIVE"


#: the organizer, who is told when a live stream has ended
HOST_ID = "demo-host"
#: ids are fixed, so that the documentation can name the event in a command; the highest one is listed first
EVENT_ID = "019aa8f0-0000-7000-8000-000000000004"

EVENTS = (
    DemoEvent(
        EVENT_ID,
        "Night of the Small Orchestras",
        "Six chamber orchestras, one open-air stage on the lake, and a choir that nobody has heard yet.",
        30,
        18,
        4,
        "Lakeside Stage",
        "Mythenquai 9",
        "Zürich",
    ),
    DemoEvent(
        "019aa8f0-0000-7000-8000-000000000003",
        "Bread, Salt and Fire",
        "An evening at the long table: four bakers, two cooks and one oven from 1894.",
        12,
        17,
        3,
        "Old Bakery",
        "Oranienstraße 4",
        "Berlin",
    ),
    DemoEvent(
        "019aa8f0-0000-7000-8000-000000000002",
        "Maps of the Night Sky",
        "A talk and a walk with telescopes. Bring a warm coat and a question.",
        45,
        20,
        2,
        "Observatory",
        "Blackheath Avenue",
        "London",
    ),
    DemoEvent(
        "019aa8f0-0000-7000-8000-000000000001",
        "Winter Swimming for Beginners",
        "Not announced yet: publish this draft and see who is notified.",
        60,
        9,
        2,
        "Bath House",
        "Utoquai 50",
        "Zürich",
        "DRAFT",
    ),
)


def event_row(event: DemoEvent, now: datetime) -> dict[str, object]:
    """Return the event as a row of the table `events`."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = day + timedelta(days=event.days, hours=event.hour)
    return {
        "id": event.id,
        "title": event.title,
        "description": event.description,
        "start_date": start,
        "end_date": start + timedelta(hours=event.duration_hours),
        "venue": event.venue,
        "address": event.address,
        "city": event.city,
        "host_id": HOST_ID,
        "status": event.status,
        "first_published_at": now if event.status == "ACTIVE" else None,
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
