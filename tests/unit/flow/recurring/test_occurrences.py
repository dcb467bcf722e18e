"""Due occurrences: the last one in each zone, at most one per zone, also after downtime and at clock changes."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from tidings.flow.recurring.occurrences import Occurrence, find_next_run, find_version, list_due
from tidings.localization.recurrence import find_next_occurrence
from tidings.model.audience import everyone
from tidings.model.recurring import RecurringNotification

ZONES = {
    name: ZoneInfo(name or "UTC")
    for name in (
        *("", "Africa/Cairo", "America/New_York", "America/St_Johns", "Asia/Kathmandu", "Asia/Tokyo"),
        *("Australia/Lord_Howe", "Europe/Berlin", "Europe/London", "Pacific/Chatham", "Pacific/Kiritimati"),
    )
}
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
DAILY = RecurringNotification("daily", "MESSAGE", everyone(), ("09:00",), "Europe/Berlin")
BERLIN = {"Europe/Berlin": ZoneInfo("Europe/Berlin")}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(now: str, since: str, **fields: object) -> list[Occurrence]:
    recurring = replace(DAILY, next_run_at=at(since), **fields)  # type: ignore[arg-type]  # fields of the definition
    return list(list_due(recurring, at(now), BERLIN))


def test_c15_an_occurrence_is_due_at_its_time_until_the_next_one() -> None:
    assert due("2026-11-23T07:59", "2026-11-23T08:00") == []
    expected = Occurrence(at("2026-11-23T08:00"), at("2026-11-24T08:00"), ("Europe/Berlin",))
    assert due("2026-11-23T08:00", "2026-11-23T08:00") == [expected]


def test_c15_two_local_times_at_one_instant_are_two_occurrences() -> None:
    """Ten o'clock in Berlin is nine o'clock in London; midnight of two days meets at the date line."""
    now = at("2026-11-23T09:00")
    daily = replace(DAILY, at=("09:00", "10:00"), timezone=None, next_run_at=now)
    names = ("Europe/Berlin", "Europe/London", "Europe/Paris")
    found = list_due(daily, now, {name: ZoneInfo(name) for name in names})
    assert [(one.at, one.timezones) for one in found] == [
        (now, ("Europe/London",)),
        (now, ("Europe/Berlin", "Europe/Paris")),
    ]
    london, berlin = (find_version(daily, now, ZoneInfo(name)) for name in ("Europe/London", "Europe/Berlin"))
    assert (berlin.version - london.version, london.span, berlin.span) == (60, 50 * 60, 50 * 60)
    # in London it is the version that Berlin had an hour ago
    assert london == find_version(daily, now - HOUR, ZoneInfo("Europe/Berlin"))
    monday, tuesday = ("Pacific/Niue", "Pacific/Tongatapu")
    midnight = replace(DAILY, at=("00:00",), timezone=None, next_run_at=at("2026-11-23T11:00"))
    found = list_due(midnight, at("2026-11-23T11:00"), {name: ZoneInfo(name) for name in (monday, tuesday)})
    assert [one.timezones for one in found] == [(monday,), (tuesday,)]


def test_c15_a_time_that_is_none_of_the_definition_any_more_has_the_version_of_the_clock() -> None:
    changed = replace(DAILY, at=("18:00",))
    instant = at("2026-11-23T08:00")
    assert find_version(changed, instant, BERLIN["Europe/Berlin"]) == find_version(
        DAILY, instant, BERLIN["Europe/Berlin"]
    )


def test_c15_after_downtime_only_the_last_occurrence_is_due() -> None:
    [only] = due("2026-11-27T20:00", "2026-11-23T08:00")
    assert (only.at, only.deadline) == (at("2026-11-27T08:00"), at("2026-11-28T08:00"))
    # it is late, which the deadline says
    [late] = due("2026-11-27T20:00", "2026-11-23T08:00", catch_up=HOUR)
    assert (late.at, late.deadline) == (at("2026-11-27T08:00"), at("2026-11-27T09:00"))
    # a longer catch-up ends with the next occurrence all the same
    [longer] = due("2026-11-27T20:00", "2026-11-23T08:00", catch_up=100 * HOUR)
    assert longer == only


def test_c15_two_times_that_a_clock_change_moves_together_are_one_occurrence() -> None:
    both = due("2026-03-29T01:00", "2026-03-28T02:00", at=("02:10", "02:50", "03:00"))
    assert [one.at for one in both] == [at("2026-03-29T01:00")]


def test_c15_zones_whose_clocks_agree_are_due_together() -> None:
    recurring = replace(DAILY, timezone=None, next_run_at=at("2026-11-23T00:00"))
    found = list_due(recurring, at("2026-11-23T09:30"), ZONES)
    assert {one.at: one.timezones for one in found} == {
        at("2026-11-23T00:00"): ("Asia/Tokyo",),
        at("2026-11-23T03:15"): ("Asia/Kathmandu",),
        at("2026-11-23T07:00"): ("Africa/Cairo",),
        at("2026-11-23T08:00"): ("Europe/Berlin",),
        at("2026-11-23T09:00"): ("", "Europe/London"),
    }


@given(
    st.sampled_from([("09:00",), ("02:30",), ("00:00", "12:00"), ("SUN 02:30",), ("1 01:30",), ("LAST 23:59",)]),
    st.integers(0, 366 * 24 * 60).map(lambda minutes: at("2026-01-01T00:00") + minutes * MINUTE),
    st.lists(st.integers(1, 40 * 60).map(lambda minutes: minutes * MINUTE), min_size=1, max_size=12),
)
def test_c15_each_zone_gets_each_occurrence_once_or_a_later_one(
    times: tuple[str, ...], start: datetime, pauses: list[timedelta]
) -> None:
    """Checks at any times, as of processes that are stopped and started."""
    recurring = replace(DAILY, at=times, timezone=None)
    recurring = replace(recurring, next_run_at=find_next_run(recurring, start, ZONES.values()))
    now = start
    made: list[tuple[str, datetime]] = []
    for pause in pauses:
        before, now = now, now + pause
        for one in list_due(recurring, now, ZONES):
            assert before < one.at <= now
            assert one.at < one.deadline
            made += [(zone, one.at) for zone in one.timezones]
        recurring = replace(recurring, next_run_at=find_next_run(recurring, now, ZONES.values()))
    assert max(Counter(made).values(), default=0) <= 1
    for zone, info in ZONES.items():
        of_zone = [instant for name, instant in made if name == zone]
        assert of_zone == sorted(of_zone)
        first = min(find_next_occurrence(one, start, info) for one in times)
        # what occurred since the start was made, or a later occurrence was
        assert bool(of_zone) == (first <= now)
