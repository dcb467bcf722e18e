"""Windows of digests: fixed, sliding, and at a time of the user's clock on both days on which that changes."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.flow.plan.digest_window import open_window
from tidings.localization.recurrence import find_next_occurrence
from tidings.model.digest import DigestWindow
from tidings.model.plan_options import DigestOptions

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)  # a Sunday
ZONES = (
    *("Africa/Cairo", "America/Chicago", "America/Havana", "America/New_York", "America/Santiago"),
    *("America/Sao_Paulo", "America/St_Johns", "Antarctica/Troll", "Asia/Beirut", "Asia/Jerusalem"),
    *("Asia/Kathmandu", "Asia/Tokyo", "Atlantic/Azores", "Australia/Lord_Howe", "Australia/Sydney"),
    *("Europe/Berlin", "Europe/Dublin", "Europe/London", "Pacific/Auckland", "Pacific/Chatham", "UTC"),
)
YEAR_2026 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def test_a_fixed_window_counts_from_the_first() -> None:
    assert open_window(DigestOptions(window_seconds=600), NOW, "UTC") == DigestWindow(NOW + 10 * MINUTE)


def test_c4_a_sliding_window_has_its_maximum_from_the_opening() -> None:
    options = DigestOptions(window_seconds=600, sliding=True, max_seconds=3600)
    assert open_window(options, NOW, "UTC") == DigestWindow(NOW + 10 * MINUTE, NOW + 60 * MINUTE)


@pytest.mark.parametrize(
    ("at", "zone", "expected"),
    [
        ("08:00", "UTC", "2026-11-23T08:00"),
        ("12:01", "UTC", "2026-11-22T12:01"),
        ("12:00", "UTC", "2026-11-23T12:00"),
        ("SUN 12:00", "UTC", "2026-11-29T12:00"),
        ("SUN 12:01", "UTC", "2026-11-22T12:01"),
        ("MON 08:00", "UTC", "2026-11-23T08:00"),
        ("SAT 08:00", "UTC", "2026-11-28T08:00"),
        # where it is 02:00 on Monday
        ("MON 08:00", "Pacific/Kiritimati", "2026-11-22T18:00"),
        ("08:00", "America/New_York", "2026-11-22T13:00"),
        ("08:00", "Mars/Olympus", "2026-11-23T08:00"),
        ("08:00", "", "2026-11-23T08:00"),
    ],
)
def test_a_time_of_day_is_that_of_the_users_clock(at: str, zone: str, expected: str) -> None:
    closes_at = open_window(DigestOptions(at=at), NOW, zone).closes_at
    assert closes_at == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("opened_at", "expected"),
    [
        # Europe/Berlin, 29 March 2026: the clock skips 02:00 to 03:00
        ("2026-03-28T23:00+00:00", "2026-03-29T01:00+00:00"),
        ("2026-03-29T01:00+00:00", "2026-03-30T00:30+00:00"),
        # 25 October 2026: the clock shows 02:00 to 03:00 twice
        ("2026-10-24T22:00+00:00", "2026-10-25T00:30+00:00"),
        ("2026-10-25T00:30+00:00", "2026-10-26T01:30+00:00"),
        ("2026-10-25T01:10+00:00", "2026-10-26T01:30+00:00"),
    ],
)
def test_c13_a_skipped_time_is_the_next_minute_and_a_repeated_one_counts_once(opened_at: str, expected: str) -> None:
    closes_at = find_next_occurrence("02:30", datetime.fromisoformat(opened_at), ZoneInfo("Europe/Berlin"))
    assert closes_at == datetime.fromisoformat(expected)


@given(
    st.sampled_from(ZONES),
    st.integers(0, 2 * 366 * 24 * 60).map(lambda minutes: YEAR_2026 + minutes * MINUTE),
    st.integers(0, 24 * 60 - 1),
)
def test_c13_each_day_of_the_users_calendar_has_one_occurrence(zone_name: str, start: datetime, minute: int) -> None:
    zone, at = ZoneInfo(zone_name), f"{minute // 60:02}:{minute % 60:02}"
    occurrences = []
    now = start
    for _ in range(4):
        now = find_next_occurrence(at, now, zone)
        occurrences.append(now)
    days = [one.astimezone(zone).date() for one in occurrences]
    assert all(later - earlier == DAY for earlier, later in pairwise(days))
    assert days[0] - start.astimezone(zone).date() in (timedelta(0), DAY)
    for one in occurrences:
        local = one.astimezone(zone)
        if f"{local:%H:%M}" == at:
            assert local.fold == 0
        else:
            # the minute before shows an earlier time: the clock skipped what was asked for
            assert f"{(one - MINUTE).astimezone(zone):%H:%M}" < at < f"{local:%H:%M}"
