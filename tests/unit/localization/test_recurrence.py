"""Recurring times: each is on its day, once, on both days on which the clock changes, and forwards is backwards."""

import calendar
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.localization.recurrence import find_last_occurrence, find_local_minute, find_next_occurrence
from tidings.model.recurring import RECURRING_TIME

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)  # a Sunday
YEAR_2026 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ZONES = (
    *("Africa/Cairo", "America/Havana", "America/New_York", "America/Santiago", "America/St_Johns"),
    *("Antarctica/Troll", "Asia/Beirut", "Asia/Kathmandu", "Atlantic/Azores", "Australia/Lord_Howe"),
    *("Europe/Berlin", "Pacific/Auckland", "Pacific/Chatham", "UTC"),
)
DAYS = ("", "MON ", "SAT ", "1 ", "28 ", "LAST ")
TIMES = st.builds(
    lambda day, minute: f"{day}{minute // 60:02}:{minute % 60:02}", st.sampled_from(DAYS), st.integers(0, 24 * 60 - 1)
)
INSTANTS = st.integers(0, 2 * 366 * 24 * 60).map(lambda minutes: YEAR_2026 + minutes * MINUTE)


@pytest.mark.parametrize(
    ("at", "zone", "expected"),
    [
        ("SUN 12:01", "UTC", "2026-11-22T12:01"),
        ("22 12:00", "UTC", "2026-12-22T12:00"),
        ("23 09:00", "Europe/Berlin", "2026-11-23T08:00"),
        ("LAST 09:00", "UTC", "2026-11-30T09:00"),
        # where it is 02:00 on the 23rd
        ("23 03:00", "Pacific/Kiritimati", "2026-11-22T13:00"),
    ],
)
def test_c15_a_time_is_on_its_day_of_the_zone(at: str, zone: str, expected: str) -> None:
    found = find_next_occurrence(at, NOW, ZoneInfo(zone))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_c15_the_last_day_of_a_month_is_that_of_february_too() -> None:
    at = "LAST 12:00"
    first = find_next_occurrence(at, datetime(2028, 2, 1, tzinfo=UTC), ZoneInfo("UTC"))
    assert [first.day, find_next_occurrence(at, first, ZoneInfo("UTC")).day] == [29, 31]


@pytest.mark.parametrize("at", ["9:00", "24:00", "29 09:00", "31 09:00", "0 09:00", "MO 09:00", "MON  09:00", "09:60"])
def test_c15_what_some_months_lack_is_no_recurring_time(at: str) -> None:
    assert not re.match(RECURRING_TIME, at)


@given(st.sampled_from(ZONES).map(ZoneInfo), INSTANTS, TIMES)
def test_c15_occurrences_are_on_their_days_and_the_same_backwards(zone: ZoneInfo, start: datetime, at: str) -> None:
    occurrences = [start]
    for _ in range(3):
        occurrences.append(find_next_occurrence(at, occurrences[-1], zone))
    for earlier, later in pairwise(occurrences[1:]):
        # nothing is between two of them, and each is the last one up to itself
        assert find_last_occurrence(at, later - timedelta(microseconds=1), zone) == earlier
        assert find_last_occurrence(at, later, zone) == later
    assert find_last_occurrence(at, occurrences[1] - timedelta(microseconds=1), zone) <= start
    for one in occurrences[1:]:
        local = one.astimezone(zone)
        assert local.fold == 0 or f"{local:%H:%M}" != at[-5:]
        day_name = at[:-6]
        if day_name == "LAST":
            assert local.day == calendar.monthrange(local.year, local.month)[1]
        elif day_name:
            assert day_name in (f"{local:%a}".upper(), str(local.day))


@given(TIMES, INSTANTS, st.lists(st.sampled_from(ZONES), min_size=2, max_size=2))
def test_c15_an_occurrence_has_the_same_local_minute_in_each_zone(at: str, near: datetime, names: list[str]) -> None:
    """Also where the clock skips or repeats it."""
    first, second = (find_next_occurrence(at, near, ZoneInfo(name)) for name in names)
    minutes = [find_local_minute(at, one, ZoneInfo(name)) for one, name in zip((first, second), names, strict=True)]
    assert None not in minutes
    one, other = (int(minute or 0) for minute in minutes)
    # the next one is the same, or another day; a day has as many minutes everywhere
    assert (one - other) % (24 * 60) == 0
    # no clock is more than 26 hours from another; a skipped time is up to half an hour or an hour later
    if one == other:
        assert abs(first - second) <= timedelta(hours=27)
    assert find_local_minute(at, first + MINUTE, ZoneInfo(names[0])) in (None, one)


def test_c15_a_skipped_time_has_the_minute_of_its_name() -> None:
    berlin, utc = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")
    skipped = datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert find_next_occurrence("02:30", skipped - MINUTE, berlin) == skipped
    assert find_local_minute("02:30", skipped, berlin) == find_local_minute("02:30", skipped + 90 * MINUTE, utc)
    assert find_local_minute("02:31", skipped + 90 * MINUTE, utc) is None
