"""Parsing and formatting of instants: ISO 8601 with an offset in, UTC with `Z` out (RFC 3339 §5.6)."""

from datetime import UTC, datetime


def format_utc_instant(moment: datetime) -> str:
    """Return an aware datetime as `2026-11-22T18:00:00Z`; with fractions of a second only if there are any."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def to_instant(value: object) -> datetime | None:
    """Return the value as UTC datetime if it is an aware datetime or ISO 8601 text with an offset, else None.

    A time without an offset is not an instant: `18:00` is a different instant in each time zone.
    """
    moment: datetime | None = None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
    if moment is None or moment.tzinfo is None or moment.utcoffset() is None:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # in year 1 or 9999 the offset can lead out of the calendar
        return None
