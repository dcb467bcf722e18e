"""Reminders of events: scheduled with the event, moved with it, and withdrawn when it does not take place."""

from datetime import datetime, timedelta

import pytest

from tidings.model.audience import ticket_holders
from tidings.packs.events.event import EventFields, EventStatus
from tidings.packs.events.service import EventService
from tidings.stores.store import SqlStore

from .conftest import NOW, START, ManualClock, RecordingNotifier

LEAD = timedelta(hours=3)


@pytest.fixture
def service(store: SqlStore, notifier: RecordingNotifier, clock: ManualClock) -> EventService:
    return EventService(store, notifier, clock, reminder_before=LEAD)


@pytest.fixture
async def event_id(store: SqlStore, service: EventService, fields: EventFields) -> str:
    """A published event."""
    async with store.transaction() as tx:
        event = await service.create(tx, fields)
        await service.publish(tx, event.id)
    return event.id


def reminders(notifier: RecordingNotifier) -> list[datetime | None]:
    """Return when the accepted reminders are sent."""
    return [one.send_at for one in notifier.requests if one.template_code == "EVENT_REMINDER"]


async def test_a_published_event_is_reminded_of_before_its_start(event_id: str, notifier: RecordingNotifier) -> None:
    [request] = [one for one in notifier.requests if one.template_code == "EVENT_REMINDER"]
    assert (request.send_at, request.expires_at) == (START - LEAD, START)
    assert request.audience == ticket_holders(event_id)
    assert request.subject is not None
    assert request.subject.key == f"event:{event_id}/reminder"


@pytest.mark.parametrize(
    ("changed", "sent_at"),
    [
        ({"start_date": START + timedelta(hours=2)}, [START - LEAD, START + timedelta(hours=2) - LEAD]),
        ({"timezone": "Asia/Tokyo"}, [START - LEAD, START - LEAD]),
        ({"venue": "Hall B"}, [START - LEAD, START - LEAD]),
        ({"description": "Bring a chair."}, [START - LEAD]),
    ],
    ids=["moved", "another zone", "new venue", "nothing that it shows"],
)
async def test_a_reminder_moves_with_its_event(
    event_id: str,
    changed: EventFields,
    sent_at: list[datetime],
    store: SqlStore,
    service: EventService,
    notifier: RecordingNotifier,
) -> None:
    async with store.transaction() as tx:
        await service.update(tx, event_id, changed)
    assert reminders(notifier) == sent_at


@pytest.mark.parametrize(("timezone", "shown"), [(None, "Europe/Berlin"), ("Asia/Tokyo", "Asia/Tokyo")])
async def test_a_reminder_shows_the_start_in_the_zone_of_its_event(
    timezone: str | None,
    shown: str,
    store: SqlStore,
    notifier: RecordingNotifier,
    clock: ManualClock,
    fields: EventFields,
) -> None:
    service = EventService(store, notifier, clock, reminder_before=LEAD, venue_timezone="Europe/Berlin")
    async with store.transaction() as tx:
        event = await service.create(tx, {**fields, "timezone": timezone})
        await service.publish(tx, event.id)
    [request] = [one for one in notifier.requests if one.template_code == "EVENT_REMINDER"]
    assert request.variables["venueTimezone"] == shown


@pytest.mark.parametrize("status", [EventStatus.CANCELLED, EventStatus.DRAFT])
async def test_an_event_that_does_not_take_place_is_not_reminded_of(
    event_id: str, status: EventStatus, store: SqlStore, service: EventService, notifier: RecordingNotifier
) -> None:
    async with store.transaction() as tx:
        await service.update(tx, event_id, {"status": status})
    assert f"event:{event_id}/reminder" in notifier.withdrawn


@pytest.mark.parametrize("start", [NOW + LEAD, NOW + timedelta(days=367)], ids=["too late", "too far ahead"])
async def test_no_reminder_is_scheduled_for_a_time_that_is_past_or_too_far_ahead(
    start: datetime, store: SqlStore, service: EventService, fields: EventFields, notifier: RecordingNotifier
) -> None:
    fields = {**fields, "start_date": start, "end_date": None, "status": EventStatus.ACTIVE}
    async with store.transaction() as tx:
        await service.create(tx, fields)
    assert reminders(notifier) == []


async def test_without_the_setting_there_are_no_reminders(
    store: SqlStore, fields: EventFields, clock: ManualClock, notifier: RecordingNotifier
) -> None:
    async with store.transaction() as tx:
        await EventService(store, notifier, clock).create(tx, {**fields, "status": EventStatus.ACTIVE})
    assert notifier.requests == []
