"""Which occurrences of a recurring notification are due, and when the next one is. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from tidings.localization.recurrence import find_last_occurrence, find_next_occurrence
from tidings.model.recurring import RecurringNotification


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An instant at which a recurring notification is due, in some time zones."""

    at: datetime
    #: its run is not made at or after this instant
    deadline: datetime
    #: stored names of time zones
    timezones: tuple[str, ...]


def list_due(recurring: RecurringNotification, now: datetime, zones: Mapping[str, ZoneInfo]) -> Sequence[Occurrence]:
    """Return the last occurrence in each zone, unless it was acted upon; zones with the same instant together.

    zones: stored name → zone. Earlier occurrences that were missed are not made up.
    """
    since = recurring.next_run_at
    if since is None:
        return ()
    by_instant: defaultdict[datetime, list[str]] = defaultdict(list)
    for name, zone in zones.items():
        last = max(find_last_occurrence(at, now, zone) for at in recurring.at)
        if last >= since:
            by_instant[last].append(name)
    return [
        Occurrence(at, min(find_deadline(recurring, at, zones[name]) for name in names), tuple(sorted(names)))
        for at, names in sorted(by_instant.items())
    ]


def find_next_run(recurring: RecurringNotification, after: datetime, zones: Iterable[ZoneInfo]) -> datetime:
    """Return the earliest occurrence after an instant in any of the zones, at least one."""
    return min(find_next_occurrence(at, after, zone) for zone in zones for at in recurring.at)


def find_deadline(recurring: RecurringNotification, occurrence: datetime, zone: ZoneInfo) -> datetime:
    """Return until when the run of an occurrence may be made: its catch-up, at most until the next occurrence."""
    following = find_next_run(recurring, occurrence, [zone])
    return following if recurring.catch_up is None else min(following, occurrence + recurring.catch_up)
