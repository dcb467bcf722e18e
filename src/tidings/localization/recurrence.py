"""Recurring times on the clock of a zone: each day, on a day of the week, or on a day of the month. Pure.

A time is `08:00`, `MON 08:00`, `15 08:00` (the 15th of each month) or `LAST 08:00` (the last day of each month). A time
that the clock shows twice occurs once, the first time. One that it skips occurs at the next existing minute.
"""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from tidings.localization.wall_clock import resolve_wall_time

_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_LAST = "LAST"
_DAY = timedelta(days=1)


def find_next_occurrence(at: str, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the first occurrence of a time after an instant, in UTC."""
    day_name, minutes = _parse(at)
    day = after.astimezone(zone).date()
    while True:
        if _is_on(day, day_name) and (occurrence := resolve_wall_time(day, minutes, zone)) > after:
            return occurrence
        day += _DAY


def find_last_occurrence(at: str, until: datetime, zone: ZoneInfo) -> datetime:
    """Return the last occurrence of a time that is not after an instant, in UTC."""
    day_name, minutes = _parse(at)
    # where the clock was set back over midnight, a time of the next day has occurred already
    day = until.astimezone(zone).date() + _DAY
    while True:
        if _is_on(day, day_name) and (occurrence := resolve_wall_time(day, minutes, zone)) <= until:
            return occurrence
        day -= _DAY


def find_local_minute(at: str, occurrence: datetime, zone: ZoneInfo) -> int | None:
    """Return the minute of the calendar, see `count_minutes`, at which the clock shows a time at its occurrence.

    It is the same in each zone, also where the clock skips the time. None if the instant is no occurrence of the time.
    """
    day_name, minutes = _parse(at)
    near = occurrence.astimezone(zone).date()
    for day in (near, near - _DAY, near + _DAY):
        if _is_on(day, day_name) and resolve_wall_time(day, minutes, zone) == occurrence:
            return count_minutes(day, minutes)
    return None


def count_minutes(day: date, minutes: int) -> int:
    """Return the minutes from the first day of the calendar to a local time."""
    return day.toordinal() * 1440 + minutes


def _parse(at: str) -> tuple[str, int]:
    """Return the name of the day, empty for each day, and the minutes after midnight."""
    day_name, _, clock_time = at.rpartition(" ")
    hours, minutes = clock_time.split(":")
    return day_name, int(hours) * 60 + int(minutes)


def _is_on(day: date, day_name: str) -> bool:
    if not day_name:
        return True
    if day_name == _LAST:
        return (day + _DAY).day == 1
    return day.day == int(day_name) if day_name.isdigit() else _WEEKDAYS[day.weekday()] == day_name
