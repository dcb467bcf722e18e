"""Windows of digests: when a digest that opens now closes. Times of day are those of the user's clock. Pure."""

from datetime import datetime, timedelta

from tidings.localization.locale_and_zone import find_zone
from tidings.localization.recurrence import find_next_occurrence
from tidings.model.digest import DigestWindow
from tidings.model.plan_options import DigestOptions


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
