"""Schedules of users: quiet hours, and the time of day of their digests."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

#: weekdays as in requests, in the order of `datetime.weekday`
WEEKDAYS: Final = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MINUTES_PER_DAY: Final = 24 * 60
_MINUTES_PER_WEEK: Final = 7 * MINUTES_PER_DAY


class QuietHours(msgspec.Struct, frozen=True, omit_defaults=True):
    """A window of the day without messages: half-open [start, end), in local time. May wrap midnight."""

    #: `HH:MM`
    start: str
    #: `HH:MM`, not the same as `start`; earlier than `start` means on the next day
    end: str
    #: weekdays on which it starts; empty = all
    days: tuple[str, ...] = ()
    #: channels that it holds; empty = all
    channels: tuple[str, ...] = ()

    @property
    def start_minutes(self) -> int:
        """Minutes from midnight to its start."""
        return to_minutes(self.start)

    @property
    def duration(self) -> int:
        """Length in minutes, on a day without a clock change."""
        return (to_minutes(self.end) - to_minutes(self.start)) % MINUTES_PER_DAY

    def has_weekday(self, weekday: int) -> bool:
        """Return whether it starts on a weekday, 0 = Monday."""
        return not self.days or WEEKDAYS[weekday] in self.days

    def has_channel(self, channel: str) -> bool:
        """Return whether it holds messages of a channel."""
        return not self.channels or channel in self.channels


class UserSchedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a user wants to receive messages."""

    #: IANA name; None = the time zone of the user
    timezone: str | None = None
    #: None = those of the installation; empty = none
    quiet_hours: tuple[QuietHours, ...] | None = None
    #: time of day of digests, `HH:MM`; None = not set
    digest_at: str | None = None


class ScheduleDefaults(msgspec.Struct, frozen=True):
    """What applies to users who have set nothing themselves."""

    quiet_hours: tuple[QuietHours, ...] = ()
    #: IANA name
    timezone: str = "UTC"
    #: the messages that wait for the end of quiet hours are released over this many seconds
    spread_seconds: float = 0


NO_SCHEDULE: Final = UserSchedule()
NO_SCHEDULE_DEFAULTS: Final = ScheduleDefaults()


def to_minutes(time_of_day: str) -> int:
    """Return the minutes from midnight to a time `HH:MM`."""
    hours, _, minutes = time_of_day.partition(":")
    return int(hours) * 60 + int(minutes)


def encode_quiet_hours(windows: tuple[QuietHours, ...] | None) -> list[Mapping[str, object]] | None:
    """Return the stored form of quiet hours."""
    return None if windows is None else [msgspec.to_builtins(window) for window in windows]


def decode_quiet_hours(stored: Any) -> tuple[QuietHours, ...] | None:
    """Return the quiet hours of the stored form."""
    return None if stored is None else msgspec.convert(stored, tuple[QuietHours, ...])


def has_free_time(windows: tuple[QuietHours, ...], channel: str) -> bool:
    """Return whether some minute of the week is outside all quiet hours of a channel."""
    covered = bytearray(_MINUTES_PER_WEEK)
    for window in windows:
        if not window.has_channel(channel):
            continue
        for weekday in range(7):
            if window.has_weekday(weekday):
                first = weekday * MINUTES_PER_DAY + window.start_minutes
                until_end_of_week = min(window.duration, _MINUTES_PER_WEEK - first)
                in_next_week = window.duration - until_end_of_week
                covered[first : first + until_end_of_week] = b"\1" * until_end_of_week
                covered[:in_next_week] = b"\1" * in_next_week
    return not all(covered)
