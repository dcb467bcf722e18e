"""Schedules of users, as callers give them. Pure."""

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tidings.errors import FieldError
from tidings.model.user_schedule import QuietHours, UserSchedule, has_free_time
from tidings.schemas.field_types import TimeZone
from tidings.schemas.json_body import RequestModel

MAX_WINDOWS = 50

_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d"
#: a time of day such as 22:00
TimeOfDay = Annotated[str, Field(pattern=rf"^{_TIME}$")]
Weekday = Literal["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]


class QuietHoursBody(RequestModel):
    """A window without messages: from `start` until just before `end`, on the next day if `end` is earlier."""

    start: TimeOfDay = Field(description="HH:MM, the first quiet minute")
    end: TimeOfDay = Field(description="HH:MM, the first minute after them; on the next day if it is before `start`")
    days: list[Weekday] = Field(
        default_factory=list, max_length=7, description="weekdays on which it starts; empty: all"
    )
    channels: list[str] = Field(default_factory=list, max_length=20, description="channels that it holds; empty: all")

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if self.start == self.end:
            raise ValueError("start and end are the same; quiet hours from 00:00 to 23:59 last almost the whole day")
        return self

    def to_quiet_hours(self) -> QuietHours:
        """Return the window of the model."""
        return QuietHours(self.start, self.end, tuple(dict.fromkeys(self.days)), tuple(dict.fromkeys(self.channels)))


class ScheduleBody(RequestModel):
    """The schedule of a user. What is left out is not set."""

    timezone: TimeZone | None = Field(None, description="IANA name; default: that of the user")
    quiet_hours: list[QuietHoursBody] | None = Field(
        None, max_length=MAX_WINDOWS, description="default: those of the installation; [] = none"
    )
    digest_at: TimeOfDay | None = Field(None, description="HH:MM, when digests at a time of day are sent")

    def to_schedule(self) -> UserSchedule:
        """Return the schedule of the model."""
        windows = self.quiet_hours
        return UserSchedule(
            self.timezone,
            None if windows is None else tuple(window.to_quiet_hours() for window in windows),
            self.digest_at,
        )


def check_schedule(schedule: UserSchedule, channels: Collection[str]) -> list[FieldError]:
    """Return what is wrong with a schedule: unknown channels, and channels that are quiet all week.

    channels: all that are installed.
    """
    windows = schedule.quiet_hours or ()
    errors = [
        FieldError(
            f"quietHours[{index}].channels", f"unknown channel {name!r}; known are {', '.join(sorted(channels))}"
        )
        for index, window in enumerate(windows)
        for name in window.channels
        if name not in channels
    ]
    silent = [name for name in channels if not has_free_time(windows, name)]
    if silent and not errors:
        errors.append(
            FieldError(
                "quietHours",
                f"cover the whole week on {', '.join(sorted(silent))}, so that nothing could ever be sent there; turn "
                "the channel off in the preferences instead",
            )
        )
    return errors
