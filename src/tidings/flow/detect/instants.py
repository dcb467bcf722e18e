"""Instants as text: ISO 8601 with an offset in, UTC with `Z` out (RFC 3339 §5.6)."""

from datetime import UTC, datetime


def written(moment: datetime) -> str:
    """Return an aware datetime as `2026-11-22T18:00:00Z`; fractions of a second only where there are any."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def as_instant(value: object) -> datetime | None:
    """Return the UTC instant a value stands for: an aware datetime, or ISO 8601 text with an offset; else None.

    Without an offset there is no instant: `18:00` is a different moment for each reader.
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
    except OverflowError:  # year 1 or 9999, moved over the edge of the calendar by its offset
        return None
