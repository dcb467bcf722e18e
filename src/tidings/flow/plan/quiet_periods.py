"""When quiet hours end: windows of local time as periods between instants. Pure.

A period begins at the first occurrence of its start and ends at the last occurrence of its end, so that a clock change
never shortens the silence. A start or an end that a clock change skips is the first instant after it.
"""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

from tidings.localization.wall_clock import resolve_wall_time
from tidings.model.user_schedule import QuietHours

#: Quiet hours that do not end within so many days are asked again then. Each week has some free time on each channel.
HORIZON = timedelta(days=15)

Period: TypeAlias = tuple[datetime, datetime]
_DAY = timedelta(days=1)


def find_quiet_end(windows: tuple[QuietHours, ...], channel: str, zone: ZoneInfo, now: datetime) -> datetime | None:
    """Return when the quiet hours that hold a channel now end, in UTC; None = nothing holds it now.

    Windows that adjoin or overlap count as one.
    """
    held = tuple(window for window in windows if window.has_channel(channel))
    if not held:
        return None
    end = now
    while end - now < HORIZON and (later := _find_period_end(held, zone, end)) is not None:
        end = later
    return None if end == now else end


def _find_period_end(windows: tuple[QuietHours, ...], zone: ZoneInfo, instant: datetime) -> datetime | None:
    """Return the latest end of the periods that contain an instant."""
    today = instant.astimezone(zone).date()
    ends = [
        end
        # a window lasts less than a day, and a day less than two
        for day in (today - 2 * _DAY, today - _DAY, today)
        for start, end in _list_periods(windows, zone, day)
        if start <= instant < end
    ]
    return max(ends, default=None)


@lru_cache(maxsize=4096)
def _list_periods(windows: tuple[QuietHours, ...], zone: ZoneInfo, day: date) -> tuple[Period, ...]:
    """Return the periods of the windows that start on a day."""
    return tuple(
        (
            resolve_wall_time(day, window.start_minutes, zone).astimezone(UTC),
            resolve_wall_time(day, window.start_minutes + window.duration, zone, last=True).astimezone(UTC),
        )
        for window in windows
        if window.has_weekday(day.weekday())
    )
