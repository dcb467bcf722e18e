"""Instants as people read them: in the reader's zone, in the order and with the clock of the reader's locale."""

from datetime import datetime

from babel import Locale
from babel.dates import format_skeleton, format_time, get_timezone_name

from tidings.flow.detect.instants import as_instant
from tidings.flow.detect.places import INTERNATIONAL_ENGLISH, Zone, locale_of, zone_of

ARROW = " → "
#: what separates the hour from AM in newer locale data is missing in fonts of older phones
_NARROW_SPACE, _SPACE = "\u202f", "\u00a0"


def instant(value: object, locale: str, timezone: str) -> str:
    """Return an instant in words: `Sun, 22 Nov 2026, 18:00`; with the zone's abbreviation where it could be doubted.

    Template filter. `value` is ISO 8601 text with an offset or an aware datetime; None gives an empty string and
    anything else is shown as it is. Never raises, whatever the locale and the time zone.
    """
    if value is None:
        return ""
    place, zone = locale_of(locale), zone_of(timezone)
    moment = _local(value, zone)
    if moment is None:
        return str(value)
    return _whole(moment, place) + _named(moment, place, needed=zone.named or _doubtful(moment))


def moved(old: object, new: object, locale: str, timezone: str) -> str | None:
    """Return `Sun, 22 Nov 2026, 18:00 → 19:30`, the day only once if it is the same; None unless both are instants."""
    place, zone = locale_of(locale), zone_of(timezone)
    before, after = _local(old, zone), _local(new, zone)
    if before is None or after is None:
        return None
    # over a clock change the two times do not tell how far they are apart, so both say which clock they mean
    shifted = before.utcoffset() != after.utcoffset()
    left = _whole(before, place) + _named(before, place, needed=shifted or _doubtful(before))
    right = _clock(after, place) if before.date() == after.date() else _whole(after, place)
    return left + ARROW + right + _named(after, place, needed=zone.named or shifted or _doubtful(after))


def _local(value: object, zone: Zone) -> datetime | None:
    moment = as_instant(value)
    if moment is None:
        return None
    try:
        return moment.astimezone(zone.info)
    except OverflowError:  # the first and the last day of the calendar
        return moment


def _whole(moment: datetime, locale: Locale) -> str:
    try:
        day = format_skeleton("yMMMEd", moment, locale=locale)
        clock = _clock(moment, locale)
        # the locale's own way to join a day and a time, `{1}, {0}` in most
        joined = str(locale.datetime_formats["medium"]).replace("'", "")
    except KeyError:  # locale data without that form
        return _whole(moment, Locale.parse(INTERNATIONAL_ENGLISH))
    return joined.replace("{1}", day).replace("{0}", clock)


def _clock(moment: datetime, locale: Locale) -> str:
    # `format_time` would turn an aware time to UTC; this one is where it belongs already
    return format_time(moment.replace(tzinfo=None), "short", locale=locale).replace(_NARROW_SPACE, _SPACE)


def _doubtful(moment: datetime) -> bool:
    """Whether the wall clock shows this time twice (RFC 5545 calls it ambiguous), at the end of summer time."""
    return moment.replace(fold=1 - moment.fold).utcoffset() != moment.utcoffset()


def _named(moment: datetime, locale: Locale, *, needed: bool) -> str:
    return " " + _abbreviation(moment, locale) if needed else ""


def _abbreviation(moment: datetime, locale: Locale) -> str:
    """Return `MEZ` to a German, `CET` to the rest; `UTC+05:30` where a zone has no letters of its own."""
    if moment.tzname() == "UTC":  # the same in every language, though some have letters of their own (`TU`)
        return "UTC"
    own = get_timezone_name(moment, width="short", locale=locale)
    for name in (own, moment.tzname() or ""):
        if name.isalpha() and name.isupper() and len(name) <= 5:
            return name
    offset = moment.utcoffset()
    minutes = 0 if offset is None else int(offset.total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    return f"UTC{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}" if minutes else "UTC"
