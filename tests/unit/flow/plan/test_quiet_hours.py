"""Quiet hours defer to their end and never drop."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.flow.plan.chain import decide
from tidings.flow.plan.quiet_periods import HORIZON, find_quiet_end
from tidings.flow.plan.rules.quiet_hours import RULE, check_quiet_hours
from tidings.localization.wall_clock import resolve_wall_time
from tidings.model.channel import ChannelTraits
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import SkipReason
from tidings.model.notification import Notification
from tidings.model.preference import Preference
from tidings.model.priority import Priority
from tidings.model.template import Category
from tidings.model.user_schedule import WEEKDAYS, QuietHours, ScheduleDefaults, UserSchedule, has_free_time
from tidings.testing.contracts.samples import make_notification

NIGHT = QuietHours("22:00", "07:00")
#: a Tuesday; local time of the candidates below is UTC
TONIGHT = datetime(2026, 11, 24, 23, tzinfo=UTC)
MORNING = datetime(2026, 11, 25, 7, tzinfo=UTC)
NEWS = Category("NEWS", "News")
NOTIFICATION = replace(make_notification(), priority=Priority.NORMAL, expires_at=TONIGHT + timedelta(days=5))
ANA = Candidate("ana", "webpush", (), has_contact_point=True, schedule=UserSchedule("UTC", (NIGHT,)))
NO_DEFAULTS = ScheduleDefaults()


def ask(
    candidate: Candidate = ANA,
    *,
    now: datetime = TONIGHT,
    notification: Notification = NOTIFICATION,
    defaults: ScheduleDefaults = NO_DEFAULTS,
    category: Category = NEWS,
    traits: ChannelTraits | None = None,
) -> Defer | None:
    """Return what the rule decides."""
    context = PlanContext(notification, category, ("webpush", "email", "inapp"), now, schedule_defaults=defaults)
    if traits is not None:
        context = structs.replace(context, get_traits=lambda _channel: traits)
    return check_quiet_hours(candidate, context)


def with_windows(*windows: QuietHours, timezone: str = "UTC") -> Candidate:
    """Return Ana with other quiet hours."""
    return structs.replace(ANA, schedule=UserSchedule(timezone, windows))


def test_c26_they_defer_to_their_end_and_record_their_inputs() -> None:
    held = ask()
    assert held is not None
    assert (held.until, held.rule) == (MORNING, RULE)
    assert held.detail == {
        "timezone": "UTC",
        "timezoneFrom": "schedule",
        "quietHoursFrom": "schedule",
        "end": "2026-11-25T07:00:00+00:00",
    }


def test_c26_urgent_messages_pass_and_mandatory_ones_wait_unless_they_are_urgent() -> None:
    urgent = replace(NOTIFICATION, priority=Priority.URGENT)
    mandatory = replace(NEWS, mandatory=True)
    assert ask(notification=urgent) is None
    assert ask(notification=urgent, category=mandatory) is None
    assert ask(category=mandatory) is not None


def test_c26_a_channel_that_does_not_interrupt_is_never_held() -> None:
    assert ask(structs.replace(ANA, channel="inapp"), traits=ChannelTraits(interrupts=False)) is None


def test_c26_the_chain_asks_them_last_so_that_other_reasons_are_recorded_at_once() -> None:
    context = PlanContext(NOTIFICATION, NEWS, ("webpush",), TONIGHT)
    turned_off = decide(structs.replace(ANA, preferences=(Preference("NEWS", "webpush", False),)), context).decision
    assert isinstance(turned_off, Skip)
    assert turned_off.reason is SkipReason.PREFERENCE_OFF
    assert isinstance(decide(ANA, context).decision, Defer)


@pytest.mark.parametrize(
    ("now", "is_held"),
    [
        ("2026-11-24T21:59:59.999999+00:00", False),
        ("2026-11-24T22:00:00+00:00", True),
        ("2026-11-25T06:59:59.999999+00:00", True),
        ("2026-11-25T07:00:00+00:00", False),
    ],
)
def test_c27_the_interval_is_half_open_and_may_wrap_midnight(now: str, is_held: bool) -> None:
    assert (ask(now=datetime.fromisoformat(now)) is not None) is is_held


def test_c27_it_may_differ_per_weekday_and_channel() -> None:
    ana = with_windows(QuietHours("22:00", "07:00", days=("TUE",), channels=("webpush",)))
    assert ask(ana) is not None
    assert ask(ana, now=MORNING - timedelta(hours=1)) is not None, "the window of Tuesday ends on Wednesday"
    assert ask(structs.replace(ana, channel="email")) is None
    assert ask(ana, now=TONIGHT + timedelta(days=1)) is None


def test_c27_adjacent_windows_join() -> None:
    held = ask(with_windows(NIGHT, QuietHours("07:00", "09:30"), QuietHours("09:00", "10:00")))
    assert held is not None
    assert held.until == datetime(2026, 11, 25, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("device", "schedule", "user", "installation", "chosen"),
    [
        ("Asia/Tokyo", "Europe/Rome", "Europe/Paris", "Europe/Berlin", ("Asia/Tokyo", "device")),
        (None, "Europe/Rome", "Europe/Paris", "Europe/Berlin", ("Europe/Rome", "schedule")),
        (None, None, "Europe/Paris", "Europe/Berlin", ("Europe/Paris", "user")),
        (None, None, "UTC", "Europe/Berlin", ("Europe/Berlin", "installation")),
        (None, "UTC", "Europe/Paris", "Europe/Berlin", ("UTC", "schedule")),
        ("UTC", None, "Europe/Paris", "Europe/Berlin", ("Europe/Paris", "user")),
        ("Mars/Base", "Nowhere", "No/Such", "Bad", ("UTC", "default")),
    ],
)
def test_c28_the_zone_is_that_of_the_device_the_schedule_the_user_or_the_installation(
    device: str | None, schedule: str | None, user: str, installation: str, chosen: tuple[str, str]
) -> None:
    always = QuietHours("00:00", "23:59")
    ana = structs.replace(ANA, device_timezone=device, timezone=user, schedule=UserSchedule(schedule, (always,)))
    held = ask(ana, defaults=ScheduleDefaults(timezone=installation))
    assert held is not None, "an unknown zone drops neither the message nor the quiet hours"
    assert (held.detail["timezone"], held.detail["timezoneFrom"]) == chosen


def test_c26_the_installation_has_quiet_hours_for_those_who_have_set_none() -> None:
    defaults = ScheduleDefaults((NIGHT,))
    held = ask(structs.replace(ANA, schedule=UserSchedule()), defaults=defaults)
    assert held is not None
    assert held.detail["quietHoursFrom"] == "installation"
    assert ask(with_windows(), defaults=defaults) is None, "an empty list is a choice"


def test_c30_what_expires_while_it_is_held_is_decided_at_its_expiry_with_the_rule_that_held_it() -> None:
    short = replace(NOTIFICATION, expires_at=TONIGHT + timedelta(hours=1))
    held = ask(notification=short)
    assert held is not None
    assert held.until == short.expires_at, "the user may change the schedule before"
    context = PlanContext(short, NEWS, ("webpush",), short.expires_at)
    expired = decide(structs.replace(ANA, held_by=RULE), context).decision
    assert expired == Skip(SkipReason.EXPIRED, {"expiresAt": "2026-11-25T00:00:00+00:00", "heldBy": RULE})


def test_c31_the_release_is_spread_over_a_span_and_stays_the_same_for_a_message() -> None:
    defaults = ScheduleDefaults(spread_seconds=600)
    times = [
        held.until
        for number in range(300)
        if (held := ask(structs.replace(ANA, user_id=f"user-{number}"), defaults=defaults)) is not None
    ]
    assert len(times) == 300
    assert all(MORNING <= time < MORNING + timedelta(seconds=600) for time in times)
    by_minute = [sum((time - MORNING) // timedelta(minutes=1) == minute for time in times) for minute in range(10)]
    assert min(by_minute) >= 10, by_minute
    assert ask(defaults=defaults) == ask(defaults=defaults)


def test_c31_jitter_reaches_neither_the_expiry_nor_the_next_quiet_hours() -> None:
    defaults = ScheduleDefaults(spread_seconds=86_400)
    short = replace(NOTIFICATION, expires_at=MORNING + timedelta(seconds=1))
    free_minute = with_windows(QuietHours("07:01", "07:00"))
    for number in range(50):
        held = ask(structs.replace(ANA, user_id=f"user-{number}"), notification=short, defaults=defaults)
        assert held is not None
        assert held.until < short.expires_at
        held = ask(structs.replace(free_minute, user_id=f"user-{number}"), defaults=defaults)
        assert held is not None
        assert ask(free_minute, now=held.until) is None


def test_c26_quiet_hours_without_any_free_time_are_asked_again_and_not_for_ever() -> None:
    """Only an older version could have stored them."""
    all_day = (QuietHours("00:00", "12:00"), QuietHours("12:00", "00:00"))
    assert not has_free_time(all_day, "webpush")
    end = find_quiet_end(all_day, "webpush", ZoneInfo("UTC"), TONIGHT)
    assert end is not None
    assert HORIZON <= end - TONIGHT <= HORIZON + timedelta(days=2)


@pytest.mark.parametrize(
    ("zone", "window", "now", "end"),
    [
        # the hour 02:00 does not exist on 2026-03-29 in Berlin: an end in it is 03:00
        ("Europe/Berlin", ("22:00", "02:30"), "2026-03-28T23:00+01:00", "2026-03-29T03:00+02:00"),
        # the hour 02:00 occurs twice on 2026-10-25: it ends at the second 02:30
        ("Europe/Berlin", ("22:00", "02:30"), "2026-10-24T23:00+02:00", "2026-10-25T02:30+01:00"),
        # and starts at the first
        ("Europe/Berlin", ("02:30", "03:00"), "2026-10-25T02:30+02:00", "2026-10-25T03:00+01:00"),
        ("America/New_York", ("21:00", "02:00"), "2026-03-07T23:00-05:00", "2026-03-08T03:00-04:00"),
        # half an hour on Lord Howe Island
        ("Australia/Lord_Howe", ("22:00", "02:15"), "2026-10-03T23:00+10:30", "2026-10-04T02:30+11:00"),
    ],
)
def test_c28_ends_that_a_clock_change_skips_or_repeats(zone: str, window: tuple[str, str], now: str, end: str) -> None:
    found = find_quiet_end((QuietHours(*window),), "webpush", ZoneInfo(zone), datetime.fromisoformat(now))
    assert found == datetime.fromisoformat(end)


def test_c28_a_start_that_does_not_exist_is_the_end_of_the_gap() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert resolve_wall_time(date(2026, 3, 29), 150, berlin) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    # Samoa had no 30 December 2011
    apia = ZoneInfo("Pacific/Apia")
    assert resolve_wall_time(date(2011, 12, 30), 600, apia) == datetime(2011, 12, 30, 10, tzinfo=UTC)


ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Dublin",
    "Europe/Lisbon",
    "America/New_York",
    "America/Los_Angeles",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Tokyo",
    "Asia/Tehran",
    "Asia/Gaza",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "Australia/Adelaide",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
)
#: days with clock changes in some of them, and others
DAYS = (
    date(2026, 3, 8),
    date(2026, 3, 29),
    date(2026, 4, 5),
    date(2026, 4, 24),
    date(2026, 9, 27),
    date(2026, 10, 4),
    date(2026, 10, 25),
    date(2026, 10, 30),
    date(2026, 11, 1),
    date(2026, 6, 15),
    date(2026, 12, 31),
)
quarters = st.integers(0, 95).map(lambda quarter: f"{quarter // 4:02}:{quarter % 4 * 15:02}")
windows = st.builds(
    QuietHours, quarters, quarters, st.lists(st.sampled_from(WEEKDAYS), max_size=3, unique=True).map(tuple)
).filter(lambda window: window.start != window.end)
schedules = (
    st.lists(windows, min_size=1, max_size=3).map(tuple).filter(lambda several: has_free_time(several, "webpush"))
)
moments = st.builds(
    lambda day, minutes: datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=minutes),
    st.sampled_from(DAYS),
    st.integers(-1440, 2880),
)


def walk(zone: ZoneInfo, start: datetime, minutes: int) -> Iterator[tuple[datetime, datetime]]:
    """Yield each minute from `start`, with its local time."""
    for number in range(minutes):
        instant = start + timedelta(minutes=number)
        yield instant, instant.astimezone(zone).replace(tzinfo=None)


def is_quiet_by_the_clock(several: Sequence[QuietHours], local: datetime) -> bool:
    """Return whether a clock on the wall, without its zone, shows a quiet minute. The model: no arithmetic of zones."""
    for window in several:
        for day in (local.date() - timedelta(days=1), local.date()):
            begins = datetime(day.year, day.month, day.day) + timedelta(minutes=window.start_minutes)  # noqa: DTZ001
            if window.has_weekday(day.weekday()) and begins <= local < begins + timedelta(minutes=window.duration):
                return True
    return False


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ZONES), schedules, moments)
@example("Europe/Berlin", (QuietHours("22:00", "02:30"),), datetime(2026, 10, 24, 22, tzinfo=UTC))
@example("Europe/Berlin", (QuietHours("02:00", "02:45"),), datetime(2026, 3, 29, 0, 59, tzinfo=UTC))
def test_c26_nothing_is_sent_in_quiet_hours_and_everything_at_their_end(
    name: str, several: tuple[QuietHours, ...], now: datetime
) -> None:
    """Minute by minute. A repeated hour may be quiet although the clock shows a free minute, never the reverse."""
    zone = ZoneInfo(name)
    end = find_quiet_end(several, "webpush", zone, now)
    if end is None:
        assert not is_quiet_by_the_clock(several, now.astimezone(zone).replace(tzinfo=None))
        return
    assert find_quiet_end(several, "webpush", zone, end) is None, "what is released is sent"
    assert not is_quiet_by_the_clock(several, end.astimezone(zone).replace(tzinfo=None))
    free = [
        (instant, local)
        for instant, local in walk(zone, now, min(int((end - now).total_seconds()) // 60, 3000))
        if not is_quiet_by_the_clock(several, local)
    ]
    # what was free by the clock and yet quiet lies within an hour that occurs twice
    for instant, local in free:
        assert _is_near_a_repeated_hour(zone, instant), (instant, local)


def _is_near_a_repeated_hour(zone: ZoneInfo, instant: datetime) -> bool:
    offsets = [
        (instant + timedelta(minutes=minutes)).astimezone(zone).utcoffset() or timedelta()
        for minutes in range(-120, 135, 15)
    ]
    return any(later < earlier for earlier, later in pairwise(offsets))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(ZONES), min_size=1, max_size=4), schedules, moments, st.data())
def test_c29_a_traveller_is_not_disturbed_and_gets_the_message_at_the_end_of_where_they_are(
    zones: list[str], several: tuple[QuietHours, ...], now: datetime, data: st.DataObject
) -> None:
    """As the engine does it: each change of the zone makes what is held due, and all rules are asked again."""
    for name in zones:
        ana = structs.replace(ANA, schedule=UserSchedule(name, several))
        long_lived = replace(NOTIFICATION, expires_at=now + timedelta(days=60))
        held = ask(ana, now=now, notification=long_lived)
        if held is None:
            assert not is_quiet_by_the_clock(several, now.astimezone(ZoneInfo(name)).replace(tzinfo=None))
            return
        assert held.until > now
        # the user travels before the release, at the latest at it
        wait = int((held.until - now).total_seconds()) // 60
        now += timedelta(minutes=data.draw(st.integers(0, wait)))
    ana = structs.replace(ANA, schedule=UserSchedule(zones[-1], several))
    held = ask(ana, now=now, notification=replace(NOTIFICATION, expires_at=now + timedelta(days=60)))
    if held is not None:
        assert ask(ana, now=held.until, notification=replace(NOTIFICATION, expires_at=now + timedelta(days=60))) is None
