"""Formats instants in the reader's time zone and locale."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from tidings.localization.instants import to_instant
from tidings.localization.locale_and_zone import INTERNATIONAL_ENGLISH, DisplayZone, find_locale, find_zone

if TYPE_CHECKING:
    from babel import Locale

# Babel is imported at its first use: the packs' declarations refer to this module, and commands that only read the
# database format no dates.

ARROW = " → "
#: newer locale data has a narrow space between hour and AM, which the fonts of older phones lack
_NARROW_SPACE, _SPACE = "\u202f", "\u00a0"


def format_local_instant(value: object, locale: str, timezone: str) -> str:
    """Return an instant as `Sun, 22 Nov 2026, 18:00`, with the zone's abbreviation where the zone may be unclear.

    Template filter. `value` is ISO 8601 text with an offset, or an aware datetime. None gives an empty string, and any
    other value is returned as text. Never raises, for any locale and time zone.
    """
    if value is None:
        return ""
    babel_locale, zone = find_locale(locale), find_zone(timezone)
    moment = _to_local(value, zone)
    if moment is None:
        return str(value)
    return _format_date_and_time(moment, babel_locale) + _zone_suffix(
        moment, babel_locale, is_needed=zone.should_show_abbreviation or _is_ambiguous(moment)
    )


def format_instant_at_venue(value: object, locale: str, timezone: str) -> str:
    """Return an instant in the zone of a venue, with the zone's abbreviation if the reader's clock differs.

    Template filter. `value` is a list: the instant as for `format_local_instant`, and the IANA name of the zone.
    Without a name the zone is the reader's. Never raises.
    """
    instant, venue = (value[0], value[1]) if isinstance(value, list | tuple) and len(value) == 2 else (value, None)
    if not isinstance(venue, str) or not venue:
        return format_local_instant(instant, locale, timezone)
    there, here = _to_local(instant, find_zone(venue)), _to_local(instant, find_zone(timezone))
    text = format_local_instant(instant, locale, venue)
    if there is None or here is None or there.utcoffset() == here.utcoffset():
        return text
    suffix = _zone_suffix(there, find_locale(locale), is_needed=True)
    return text if text.endswith(suffix) else text + suffix


def format_instant_change(old: object, new: object, locale: str, timezone: str) -> str | None:
    """Return `Sun, 22 Nov 2026, 18:00 → 19:30`, without repeating the same day; None unless both are instants."""
    babel_locale, zone = find_locale(locale), find_zone(timezone)
    before, after = _to_local(old, zone), _to_local(new, zone)
    if before is None or after is None:
        return None
    # across a clock change the difference between the times is unclear, so both have the zone's abbreviation
    offset_changed = before.utcoffset() != after.utcoffset()
    start = _format_date_and_time(before, babel_locale) + _zone_suffix(
        before, babel_locale, is_needed=offset_changed or _is_ambiguous(before)
    )
    end = (
        _format_time(after, babel_locale)
        if before.date() == after.date()
        else _format_date_and_time(after, babel_locale)
    )
    return (
        start
        + ARROW
        + end
        + _zone_suffix(
            after, babel_locale, is_needed=zone.should_show_abbreviation or offset_changed or _is_ambiguous(after)
        )
    )


def _to_local(value: object, zone: DisplayZone) -> datetime | None:
    moment = to_instant(value)
    if moment is None:
        return None
    try:
        return moment.astimezone(zone.info)
    except OverflowError:  # on the first or the last day of the calendar
        return moment


def _format_date_and_time(moment: datetime, locale: Locale) -> str:
    from babel.dates import format_skeleton

    try:
        day = format_skeleton("yMMMEd", moment, locale=locale)
        time = _format_time(moment, locale)
        # the locale's pattern for a day and a time, `{1}, {0}` in most
        pattern = str(locale.datetime_formats["medium"]).replace("'", "")
    except KeyError:  # locale data without this format
        return _format_date_and_time(moment, find_locale(INTERNATIONAL_ENGLISH))
    return pattern.replace("{1}", day).replace("{0}", time)


def _format_time(moment: datetime, locale: Locale) -> str:
    from babel.dates import format_time

    # `format_time` would convert an aware time to UTC
    return format_time(moment.replace(tzinfo=None), "short", locale=locale).replace(_NARROW_SPACE, _SPACE)


def _is_ambiguous(moment: datetime) -> bool:
    """Return whether this local time occurs twice, at the end of summer time (ambiguous in RFC 5545)."""
    return moment.replace(fold=1 - moment.fold).utcoffset() != moment.utcoffset()


def _zone_suffix(moment: datetime, locale: Locale, *, is_needed: bool) -> str:
    return " " + _zone_abbreviation(moment, locale) if is_needed else ""


def _zone_abbreviation(moment: datetime, locale: Locale) -> str:
    """Return the abbreviation: `MEZ` in German, `CET` in other languages, `UTC+05:30` where a zone has none."""
    from babel.dates import get_timezone_name

    if moment.tzname() == "UTC":  # the same in every language, although some have their own abbreviation (`TU`)
        return "UTC"
    localized = get_timezone_name(moment, width="short", locale=locale)
    for name in (localized, moment.tzname() or ""):
        if name.isalpha() and name.isupper() and len(name) <= 5:
            return name
    offset = moment.utcoffset()
    minutes = 0 if offset is None else int(offset.total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    return f"UTC{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}" if minutes else "UTC"
