"""Expiry of notifications about events."""

import dataclasses
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tidings.changes.detector import detect
from tidings.packs.events.event import Event, EventFields, EventStatus, change_snapshot
from tidings.packs.events.notification_rules import (
    CHANGE_RULES,
    expiry_for,
    host_message,
    notification_for_update,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
EVENT = Event(
    id="e1",
    title="Jazz night",
    description="",
    start_date=NOW + 2 * DAY,
    end_date=None,
    venue=None,
    address=None,
    city=None,
    host_id=None,
    status=EventStatus.ACTIVE,
    first_published_at=NOW,
    version=1,
    created_at=NOW,
    updated_at=NOW,
)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (2 * DAY, 2 * DAY + timedelta(hours=3), 2 * DAY + timedelta(hours=3)),
        (2 * DAY, None, 3 * DAY),
        (timedelta(hours=1), timedelta(hours=2), timedelta(hours=2)),
        (timedelta(hours=-1), timedelta(seconds=8), timedelta(seconds=8)),
        (timedelta(hours=-1), None, timedelta(hours=23)),
        # push services keep no message longer
        (90 * DAY, None, 28 * DAY),
    ],
)
def test_a_notification_never_outlives_its_event(start: timedelta, end: timedelta | None, expected: timedelta) -> None:
    event = dataclasses.replace(EVENT, start_date=NOW + start, end_date=None if end is None else NOW + end)
    assert expiry_for(event, NOW) == NOW + expected


@pytest.mark.parametrize(
    ("start", "end"), [(-9 * DAY, None), (-DAY, None), (timedelta(hours=-3), timedelta(hours=-1)), (-DAY, timedelta())]
)
@pytest.mark.parametrize(
    "fields",
    [
        EventFields(venue="Elsewhere"),
        EventFields(status=EventStatus.CANCELLED),
        EventFields(status=EventStatus.COMPLETED),
    ],
)
def test_a_change_of_an_event_that_is_over_tells_nobody(
    start: timedelta, end: timedelta | None, fields: EventFields
) -> None:
    old = dataclasses.replace(EVENT, start_date=NOW + start, end_date=None if end is None else NOW + end)
    new = dataclasses.replace(old, **fields)
    change = detect(change_snapshot(old), change_snapshot(new), CHANGE_RULES)
    assert change is not None
    assert notification_for_update(old, new, change, NOW) is None


def test_publishing_an_event_that_is_over_tells_nobody() -> None:
    old = dataclasses.replace(
        EVENT, start_date=NOW - 2 * DAY, end_date=None, status=EventStatus.DRAFT, first_published_at=None
    )
    new = dataclasses.replace(old, status=EventStatus.ACTIVE, first_published_at=NOW)
    assert notification_for_update(old, new, None, NOW) is None


def test_an_event_that_is_moved_from_the_past_to_the_future_is_news() -> None:
    old = dataclasses.replace(EVENT, start_date=NOW - 2 * DAY, end_date=None)
    new = dataclasses.replace(old, start_date=NOW + DAY)
    request = notification_for_update(old, new, detect(change_snapshot(old), change_snapshot(new), CHANGE_RULES), NOW)
    assert request is not None
    assert request.expires_at == NOW + 2 * DAY


def test_a_message_of_the_host_after_the_event_lives_for_a_day() -> None:
    event = dataclasses.replace(EVENT, start_date=NOW - 2 * DAY, end_date=None)
    assert host_message(event, "Thank you", "for coming", NOW, message_id="m-1").expires_at == NOW + DAY
    assert (
        host_message(dataclasses.replace(event, end_date=NOW + DAY / 2), "a", "b", NOW, message_id="m-1").expires_at
        == NOW + DAY / 2
    )


def test_the_longest_texts_fit_into_a_notification() -> None:
    old = dataclasses.replace(EVENT, description="é" * 10_000, title="é" * 200, venue="é" * 300, address="é" * 300)
    new = dataclasses.replace(old, description="ü" * 10_000, title="ü" * 200, venue="ü" * 300, address="ü" * 300)
    request = notification_for_update(old, new, detect(change_snapshot(old), change_snapshot(new), CHANGE_RULES), NOW)
    assert request is not None
    assert len(msgspec.json.encode(request.variables)) < 16_384
