"""Schedules as callers give them, and the quiet hours of the settings."""

import pytest
from pydantic import ValidationError

from tidings.config.quiet_hours import parse_quiet_hours
from tidings.model.user_schedule import QuietHours, UserSchedule
from tidings.schemas.user_schedule import ScheduleBody, check_schedule

CHANNELS = ("webpush", "email")


def test_a_whole_schedule_is_read() -> None:
    window = {"start": "22:00", "end": "07:00", "days": ["MON", "MON", "TUE"], "channels": ["webpush"]}
    body = {"timezone": "europe/rome", "quietHours": [window, {"start": "13:00", "end": "14:00"}], "digestAt": "08:30"}
    assert ScheduleBody.model_validate(body).to_schedule() == UserSchedule(
        "Europe/Rome",
        (QuietHours("22:00", "07:00", ("MON", "TUE"), ("webpush",)), QuietHours("13:00", "14:00")),
        "08:30",
    )
    assert ScheduleBody.model_validate({}).to_schedule() == UserSchedule()
    assert ScheduleBody.model_validate({"quietHours": []}).to_schedule() == UserSchedule(quiet_hours=())


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"quietHours": [{"start": "22:00", "end": "22:00"}]}, "start and end are the same"),
        ({"quietHours": [{"start": "24:00", "end": "07:00"}]}, "pattern"),
        ({"quietHours": [{"start": "7:00", "end": "08:00"}]}, "pattern"),
        ({"quietHours": [{"start": "07:00"}]}, "end"),
        ({"quietHours": [{"start": "07:00", "end": "08:00", "days": ["MONDAY"]}]}, "days"),
        ({"timezone": "Mars/Base"}, "IANA"),
        ({"digestAt": "8"}, "pattern"),
        ({"quiet": []}, "quiet"),
    ],
)
def test_c27_what_is_wrong_is_refused(body: dict[str, object], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        ScheduleBody.model_validate(body)


def test_c27_unknown_channels_and_quiet_weeks_are_refused_by_name() -> None:
    unknown = UserSchedule(quiet_hours=(QuietHours("22:00", "07:00", channels=("pigeon",)),))
    [error] = check_schedule(unknown, CHANNELS)
    assert error.field == "quietHours[0].channels"
    whole_day = (QuietHours("00:00", "12:00", channels=("email",)), QuietHours("12:00", "00:00", channels=("email",)))
    [error] = check_schedule(UserSchedule(quiet_hours=whole_day), CHANNELS)
    assert error.field == "quietHours"
    assert "email" in error.message
    assert check_schedule(UserSchedule(quiet_hours=(QuietHours("00:00", "23:59"),)), CHANNELS) == []


def test_the_setting_names_times_and_optionally_a_channel() -> None:
    assert parse_quiet_hours(["22:00-07:00", "webpush=13:00-14:00"]) == (
        QuietHours("22:00", "07:00"),
        QuietHours("13:00", "14:00", channels=("webpush",)),
    )
    assert parse_quiet_hours([]) == ()


@pytest.mark.parametrize("item", ["22:00", "22:00-22:00", "25:00-07:00", "=22:00-07:00", "22-7"])
def test_a_wrong_setting_is_rejected(item: str) -> None:
    with pytest.raises(ValueError, match="22:00-07:00"):
        parse_quiet_hours([item])


def test_a_setting_without_free_time_is_rejected() -> None:
    with pytest.raises(ValueError, match="no free time"):
        parse_quiet_hours(["00:00-12:00", "sms=12:00-00:00"])
