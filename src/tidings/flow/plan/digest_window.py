"""Windows of digests: when a digest that opens now closes. Times of day are those of the user's clock. Pure."""

from datetime import UTC, datetime, time, timedelta, tzinfo

from tidings.localization.locale_and_zone import find_zone
from tidings.model.digest import DigestWindow
from tidings.model.plan_options import DigestOptions

_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_DAY, _MINUTE = timedelta(days=1), timedelta(minutes=1)


def open_window(options: DigestOptions, now: datetime, timezone: str) -> DigestWindow:
    """Return the window of a digest that opens now.

    timezone: IANA name of the user's zone; an unknown one counts as UTC.
    """
    if options.at is not None:
        zone = find_zone(timezone).info
        closes_at = find_next_occurrence(options.at, now, zone)
        if options.catch_up_seconds is not None:
            return DigestWindow(closes_at, catch_up=timedelta(seconds=options.catch_up_seconds))
        return DigestWindow(closes_at, catch_up=find_next_occurrence(options.at, closes_at, zone) - closes_at)
    closes_at = now + timedelta(seconds=options.window_seconds or 0)
    latest = now + timedelta(seconds=options.max_seconds) if options.sliding and options.max_seconds else None
    return DigestWindow(closes_at, latest)


def find_next_occurrence(at: str, now: datetime, zone: tzinfo) -> datetime:
    """Return the first occurrence after `now` of a time of day (`08:00`) or of week (`MON 08:00`) in a zone, in UTC.

    A time that the clock shows twice occurs once, the first time. One that it skips occurs at the next existing minute.
    """
    day_name, _, clock_time = at.rpartition(" ")
    wall_time = time.fromisoformat(clock_time)
    day = now.astimezone(zone).date()
    while True:
        if not day_name or _DAYS[day.weekday()] == day_name:
            occurrence = _to_instant(datetime.combine(day, wall_time), zone)
            if occurrence > now:
                return occurrence
        day += _DAY


def _to_instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return the first instant at which the clock of a zone shows `wall` or, if it skips that, something later."""
    instant = wall.replace(tzinfo=zone).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == wall:
        return instant
    # the clock skips `wall`: it was set forward between these two instants
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while instant - before > _MINUTE:
        middle = before + (instant - before) // (2 * _MINUTE) * _MINUTE
        if middle.astimezone(zone).replace(tzinfo=None) < wall:
            before = middle
        else:
            instant = middle
    return instant
