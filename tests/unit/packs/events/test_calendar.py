"""What the calendar entry of an event says, and which messages have one."""

from dataclasses import replace
from datetime import timedelta

from tidings.packs.events.calendar import build_calendar_entry
from tidings.packs.events.event import Event, EventStatus
from tidings.packs.events.notification_rules import host_message, publication_notice
from tidings.testing.clock import START

EVENT = Event(
    id="e-1",
    title="Concert",
    start_date=START + timedelta(days=3),
    status=EventStatus.ACTIVE,
    version=4,
    created_at=START,
    updated_at=START,
)


def test_c60_all_versions_have_one_uid_and_a_rising_sequence() -> None:
    first, second = build_calendar_entry(EVENT), build_calendar_entry(replace(EVENT, version=5, title="Late concert"))
    assert first["uid"] == second["uid"] == "event-e-1@tidings"
    assert (first["sequence"], second["sequence"]) == (4, 5)


def test_c60_a_cancelled_event_is_removed_from_calendars() -> None:
    assert build_calendar_entry(EVENT)["status"] == "CONFIRMED"
    assert build_calendar_entry(replace(EVENT, status=EventStatus.CANCELLED))["status"] == "CANCELLED"
    assert build_calendar_entry(replace(EVENT, status=EventStatus.COMPLETED))["status"] == "CONFIRMED"


def test_an_entry_has_an_end_and_a_place_only_if_the_event_has_them() -> None:
    assert {"end", "location"}.isdisjoint(build_calendar_entry(EVENT))
    placed = replace(EVENT, end_date=START + timedelta(days=3, hours=2), venue="Foyer", city="Basel")
    entry = build_calendar_entry(placed)
    assert (entry["location"], entry["end"]) == ("Foyer, Basel", "2026-11-25T14:00:00Z")


def test_news_of_an_event_has_its_calendar_and_a_message_of_its_host_has_none() -> None:
    assert publication_notice(EVENT, START).variables["calendar"] == build_calendar_entry(EVENT)
    assert "calendar" not in host_message(EVENT, "Hello", "Bring a coat", START, message_id="m-1").variables
