"""Instants of local times, also of those that a clock change skips or repeats."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from tidings.localization.locale_and_zone import MAX_NAME_LENGTH


@lru_cache(maxsize=1024)
def lookup_zone(name: str) -> ZoneInfo | None:
    """Return the time zone of an IANA name, None if this machine's data has none of this name."""
    if len(name) > MAX_NAME_LENGTH or not name.isascii():
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):  # malformed, unknown, or the name of a directory
        return None


@cache
def list_zones() -> Sequence[ZoneInfo]:
    """Return every time zone of this machine's data. The first call reads six hundred files."""
    return [zone for name in sorted(available_timezones()) if (zone := lookup_zone(name)) is not None]


def resolve_wall_time(day: date, minutes: int, zone: ZoneInfo, *, last: bool = False) -> datetime:
    """Return the instant, in UTC, at which the local time is `minutes` after the midnight that begins `day`.

    minutes: 0 to 1440. Of a time that occurs twice, it is the first occurrence, or with `last` the second. Of a time
    that does not exist, it is the first instant after the skipped times.
    """
    day, minutes = day + timedelta(days=minutes // 1440), minutes % 1440
    wall = datetime.combine(day, time(minutes // 60, minutes % 60), zone)
    first, second = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
    if first == second:
        return first
    if first < second:
        return second if last else first
    # skipped: the clock change is between the two, and the offset after it is that of `first`
    low, high = second, first
    offset = _offset_at(high, zone)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if _offset_at(middle, zone) == offset:
            high = middle
        else:
            low = middle
    return high.replace(microsecond=0)


def _offset_at(instant: datetime, zone: ZoneInfo) -> timedelta | None:
    return instant.astimezone(zone).utcoffset()
