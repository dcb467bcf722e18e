"""How long news is worth sending."""

import dataclasses
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tidings.flow.detect.detect import detect
from tidings.packs.events.events import Event, EventStatus, watched
from tidings.packs.events.news import limit, news_of
from tidings.packs.events.rules import RULES

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
        # moved into the past by mistake or not, there is a day to tell people
        (-9 * DAY, None, DAY),
        (timedelta(hours=1), timedelta(hours=2), DAY),
        # no push service keeps a message longer
        (90 * DAY, None, 28 * DAY),
    ],
)
def test_news_ends_with_the_event_within_a_day_and_four_weeks(
    start: timedelta, end: timedelta | None, expected: timedelta
) -> None:
    event = dataclasses.replace(EVENT, start_date=NOW + start, end_date=None if end is None else NOW + end)
    assert limit(event, NOW) == NOW + expected


def test_the_longest_texts_fit_into_a_notification() -> None:
    old = dataclasses.replace(EVENT, description="é" * 10_000, title="é" * 200, venue="é" * 300, address="é" * 300)
    new = dataclasses.replace(old, description="ü" * 10_000, title="ü" * 200, venue="ü" * 300, address="ü" * 300)
    request = news_of(old, new, detect(watched(old), watched(new), RULES), NOW)
    assert request is not None
    assert len(msgspec.json.encode(request.variables)) < 16_384
