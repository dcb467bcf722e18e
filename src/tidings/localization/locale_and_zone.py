"""Look-up of locales and time zones. Unknown names fall back to English and UTC and never raise.

An invalid tag in a user's profile may affect the date format, but must not prevent the notification.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from babel.core import Locale

#: locale for English without a country: it gives `Sun, 22 Nov 2026, 18:00`, which all readers understand
INTERNATIONAL_ENGLISH = "en_150"
#: longer than any real tag or zone name; longer input is not cached
MAX_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class DisplayZone:
    """A time zone, and whether times must show its abbreviation because the reader may be in another zone."""

    info: ZoneInfo
    should_show_abbreviation: bool


@lru_cache(maxsize=512)
def _lookup_locale(tag: str) -> Locale:
    # imported at its first use, see `dates`
    from babel.core import Locale, UnknownLocaleError

    parts = tag.replace("_", "-").split("-")
    # the longest known prefix of the tag: `de-CH-u-hc-h12` → `de-CH`
    for length in range(min(len(parts), 3), 0, -1):
        try:
            locale = Locale.parse("_".join(parts[:length]))
        except (UnknownLocaleError, ValueError, TypeError):
            continue
        if locale is not None and str(locale) != "en":
            return locale
        break
    return Locale.parse(INTERNATIONAL_ENGLISH)


def find_locale(tag: str) -> Locale:
    """Return the Babel locale of a BCP 47 tag such as `de-CH`; international English for anything unknown."""
    return _lookup_locale(tag if len(tag) <= MAX_NAME_LENGTH and tag.isascii() else "en")


@lru_cache(maxsize=1024)
def _lookup_zone(name: str) -> DisplayZone:
    try:
        info = ZoneInfo(name)
    except (ValueError, KeyError, OSError):  # malformed, unknown, or the name of a directory
        return DisplayZone(ZoneInfo("UTC"), should_show_abbreviation=True)
    # UTC is the default of profiles without a time zone, and hardly any user's local time
    return DisplayZone(
        info, should_show_abbreviation=name.upper() in {"UTC", "ETC/UTC", "GMT", "ETC/GMT", "ZULU", "UCT", "ETC/UCT"}
    )


def find_zone(name: str) -> DisplayZone:
    """Return the zone of an IANA name such as `Europe/Berlin`; UTC with its abbreviation for anything unknown."""
    return _lookup_zone(name if len(name) <= MAX_NAME_LENGTH and name.isascii() else "")
