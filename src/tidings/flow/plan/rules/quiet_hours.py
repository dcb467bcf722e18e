"""Quiet hours hold messages until they end. Urgent messages pass, and so do channels that do not interrupt.

They never drop a message. One that expires while it is held is recorded as expired, with the rule that held it.
"""

import zlib
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.flow.plan.quiet_periods import find_quiet_end
from tidings.localization.wall_clock import lookup_zone
from tidings.model.decision import Defer
from tidings.model.priority import Priority
from tidings.model.user_schedule import QuietHours, ScheduleDefaults

#: `held_by` of the deliveries that quiet hours hold
RULE: Final = "quiet_hours"
#: the time zone of users whose profile names none, and of browsers that hide theirs; it says nothing of where they are
_UNSET_ZONE: Final = "UTC"
_UTC: Final = ZoneInfo("UTC")


def check_quiet_hours(candidate: Candidate, context: PlanContext) -> Defer | None:
    """Hold a message until the quiet hours of its user and channel end.

    The installation spreads the release: each message waits a part of the span longer, unless it would expire, or meet
    the next quiet hours.
    """
    defaults = context.schedule_defaults
    windows = candidate.schedule.quiet_hours
    if windows is None:
        windows = defaults.quiet_hours
    if not windows or context.notification.priority is Priority.URGENT:
        return None
    if not context.get_traits(candidate.channel).interrupts:
        return None
    zone, zone_from = choose_zone(candidate, defaults)
    end = find_quiet_end(windows, candidate.channel, zone, context.now)
    if end is None:
        return None
    until = _spread(candidate, context, windows, zone, end)
    return Defer(
        # it is decided at the expiry at the latest, so that what expires is recorded at once
        min(until, context.notification.expires_at),
        RULE,
        {
            "timezone": zone.key,
            "timezoneFrom": zone_from,
            "quietHoursFrom": "installation" if candidate.schedule.quiet_hours is None else "schedule",
            "end": end.isoformat(timespec="seconds"),
        },
    )


def choose_zone(candidate: Candidate, defaults: ScheduleDefaults) -> tuple[ZoneInfo, str]:
    """Return the time zone of a candidate, and where it comes from.

    In order: the device, the user's schedule, the user, the installation, UTC. Unknown names are passed over, and so is
    UTC where it means that none was set.
    """
    for name, source, is_chosen in (
        (candidate.device_timezone, "device", False),
        (candidate.schedule.timezone, "schedule", True),
        (candidate.timezone, "user", False),
        (defaults.timezone, "installation", True),
    ):
        if name is None or (name == _UNSET_ZONE and not is_chosen):
            continue
        if (zone := lookup_zone(name)) is not None:
            return zone, source
    return _UTC, "default"


def _spread(
    candidate: Candidate, context: PlanContext, windows: tuple[QuietHours, ...], zone: ZoneInfo, end: datetime
) -> datetime:
    """Return when to release a message. The same message gets the same place in the span each time."""
    span = context.schedule_defaults.spread_seconds
    if not span:
        return end
    place = zlib.crc32(f"{context.notification.id}/{candidate.user_id}".encode()) / 2**32
    until = end + timedelta(seconds=round(span * place, 3))
    if until + context.min_lifetime >= context.notification.expires_at:
        return end
    return end if find_quiet_end(windows, candidate.channel, zone, until) is not None else until
