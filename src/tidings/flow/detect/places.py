"""A reader's locale and time zone, looked up. What cannot be understood becomes English and UTC, never an error.

A wrong tag in a user's profile must cost the reader a nicer date at most, not the notification.
"""

from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

from babel.core import Locale, UnknownLocaleError

#: English without a country has no clock of its own; this one writes `Sun, 22 Nov 2026, 18:00`, which everybody reads
INTERNATIONAL_ENGLISH = "en_150"
#: longer than any real tag or zone name; keeps junk out of the caches
LONGEST = 64


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone and whether it must be named beside a time, because the reader may live in another one."""

    info: ZoneInfo
    named: bool


@lru_cache(maxsize=512)
def _locale(tag: str) -> Locale:
    parts = tag.replace("_", "-").split("-")
    # the longest part of the tag that is known: `de-CH-u-hc-h12` → `de-CH`
    for length in range(min(len(parts), 3), 0, -1):
        try:
            found = Locale.parse("_".join(parts[:length]))
        except (UnknownLocaleError, ValueError, TypeError):
            continue
        if found is not None and str(found) != "en":
            return found
        break
    return Locale.parse(INTERNATIONAL_ENGLISH)


def locale_of(tag: str) -> Locale:
    """Return the Babel locale of a BCP 47 tag such as `de-CH`; international English for anything unknown."""
    return _locale(tag if len(tag) <= LONGEST and tag.isascii() else "en")


@lru_cache(maxsize=1024)
def _zone(name: str) -> Zone:
    try:
        info = ZoneInfo(name)
    except (ValueError, KeyError, OSError):  # malformed, unknown, or the name of a folder
        return Zone(ZoneInfo("UTC"), named=True)
    # UTC is what a profile says that nobody filled in, and hardly anybody's wall clock
    return Zone(info, named=name.upper() in {"UTC", "ETC/UTC", "GMT", "ETC/GMT", "ZULU", "UCT", "ETC/UCT"})


def zone_of(name: str) -> Zone:
    """Return the zone of an IANA name such as `Europe/Berlin`; UTC, to be named, for anything unknown."""
    return _zone(name if len(name) <= LONGEST and name.isascii() else "")
