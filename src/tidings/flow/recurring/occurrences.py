"""Which occurrences of a recurring notification are due, and when the next one is. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tidings.localization.recurrence import (
    count_minutes,
    find_last_occurrence,
    find_local_minute,
    find_next_occurrence,
)
from tidings.model.recurring import RecurringNotification
from tidings.model.subject import DefaultVersion

#: clocks of two zones differ by up to 26 hours. What one zone was sent less than a day ago may be unsent
_SPAN = timedelta(hours=26 + 24)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An instant at which a recurring notification is due, in some time zones."""

    at: datetime
    #: its run is not made at or after this instant
    deadline: datetime
    #: stored names of time zones
    timezones: tuple[str, ...]


def list_due(recurring: RecurringNotification, now: datetime, zones: Mapping[str, ZoneInfo]) -> Sequence[Occurrence]:
    """Return the last occurrence in each zone, unless it was acted upon; zones with the same instant and
    the same local time together.

    zones: stored name → zone. Earlier occurrences that were missed are not made up.
    """
    since = recurring.next_run_at
    if since is None:
        return ()
    # where the clock shows another of the times at that instant, it is another occurrence
    by_time: defaultdict[tuple[datetime, int], list[str]] = defaultdict(list)
    for name, zone in zones.items():
        last = max(find_last_occurrence(at, now, zone) for at in recurring.at)
        if last >= since:
            by_time[last, _find_minute(recurring, last, zone)].append(name)
    return [
        Occurrence(at, min(find_deadline(recurring, at, zones[name]) for name in names), tuple(sorted(names)))
        for (at, _), names in sorted(by_time.items())
    ]


def find_version(recurring: RecurringNotification, occurrence: datetime, zone: ZoneInfo) -> DefaultVersion:
    """Return the version on the subject of an occurrence in one zone: the same in each zone, growing with local time.

    The runs of other zones are for other users, so they supersede only what is over everywhere.
    """
    return DefaultVersion(_find_minute(recurring, occurrence, zone), _SPAN // timedelta(minutes=1))


def _find_minute(recurring: RecurringNotification, occurrence: datetime, zone: ZoneInfo) -> int:
    """Return the local minute of the last of the times that occur at an instant."""
    found = [find_local_minute(at, occurrence, zone) for at in recurring.at]
    if known := [minute for minute in found if minute is not None]:
        return max(known)
    # the times were changed since
    local = occurrence.astimezone(zone)
    return count_minutes(local.date(), local.hour * 60 + local.minute)


def find_next_run(recurring: RecurringNotification, after: datetime, zones: Iterable[ZoneInfo]) -> datetime:
    """Return the earliest occurrence after an instant in any of the zones, at least one."""
    return min(find_next_occurrence(at, after, zone) for zone in zones for at in recurring.at)


def find_deadline(recurring: RecurringNotification, occurrence: datetime, zone: ZoneInfo) -> datetime:
    """Return until when the run of an occurrence may be made: its catch-up, at most until the next occurrence."""
    following = find_next_run(recurring, occurrence, [zone])
    return following if recurring.catch_up is None else min(following, occurrence + recurring.catch_up)
