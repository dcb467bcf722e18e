"""What single values must look like, with error messages that say what would be right."""

import functools
import re
import zoneinfo
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from babel import Locale, UnknownLocaleError
from pydantic import AfterValidator, BeforeValidator, JsonValue, WithJsonSchema

from tidings.model.ids import is_id
from tidings.model.links import fault_of_link
from tidings.model.request import MAX_VARIABLES_BYTES

MAX_USER_ID: Final = 200
#: bytes of a user's attributes or a notification's variables, as JSON
MAX_JSON: Final = MAX_VARIABLES_BYTES

_EMAIL = re.compile(r"[^\s@<>\"(),:;\\\[\]]{1,64}@[^\s@<>\"(),:;\\\[\]]{1,253}")
_PHONE = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_LOCALE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|\d{3}))?(?:-[A-Za-z\d]{1,8})*", re.ASCII)
# RFC 3339 §5.6, seconds may be left out; `fromisoformat` alone would take week dates and bare days too
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_INSTANT_SCHEMA = {"type": "string", "format": "date-time", "examples": ["2026-11-22T19:30:00+01:00"]}


def user_id(text: str) -> str:
    """Return a user id: 1 to 200 printable characters that can stand in a URL path."""
    if not 1 <= len(text) <= MAX_USER_ID or not text.isprintable() or text != text.strip():
        raise ValueError(f"must be 1 to {MAX_USER_ID} printable characters without blanks around them")
    if "/" in text or text in {".", "..", "me"}:
        raise ValueError("must not contain / nor be one of: me, ., ..")
    return text


def email(text: str) -> str:
    """Return an e-mail address (the part that mail servers agree on, RFC 5321 §4.5.3)."""
    if len(text) > 254 or not text.isprintable() or not _EMAIL.fullmatch(text):
        raise ValueError("must be an e-mail address such as ana@example.org")
    return text


def phone(text: str) -> str:
    """Return an E.164 phone number."""
    if not _PHONE.fullmatch(text):
        raise ValueError("must be a phone number with country code, such as +41441234567 (E.164)")
    return text


@functools.lru_cache(maxsize=1024)
def locale(text: str) -> str:
    """Return a BCP 47 tag in its usual case. The language must be known, an odd region is no error."""
    if len(text) > 35 or not _LOCALE.fullmatch(text.replace("_", "-")):
        raise ValueError("must be a language tag such as de-CH (BCP 47)")
    parts = text.replace("_", "-").split("-")
    try:
        Locale(parts[0].lower())
    except UnknownLocaleError as error:
        raise ValueError(f"{parts[0]} is not a known language; use a tag such as de-CH (BCP 47)") from error
    cased = [parts[0].lower()]
    for part in parts[1:]:
        if len(part) == 4 and part.isalpha():
            cased.append(part.title())
        else:
            cased.append(part.upper() if len(part) == 2 else part.lower())
    return "-".join(cased)


@functools.cache
def _zones() -> dict[str, str]:
    # two that say nothing about a place: `localtime` is this machine's, `Factory` means that nobody set one
    return {name.lower(): name for name in zoneinfo.available_timezones() - {"localtime", "Factory"}}


def timezone(text: str) -> str:
    """Return an IANA time-zone name."""
    name = _zones().get(text.lower())
    if name is None:
        raise ValueError("must be an IANA time-zone name such as Europe/Zurich")
    return name


def instant(value: object) -> object:
    """Return the instant of an RFC 3339 text, in UTC. Without an offset it is a different moment for each reader."""
    try:
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
            if 1970 <= moment.year <= 2999:
                return moment
    except (ValueError, OverflowError) as error:
        # no such day or hour; year 1 or 9999, moved over the edge of the calendar by its offset
        raise ValueError(_no_instant()) from error
    raise ValueError(_no_instant())


def _no_instant() -> str:
    return "must be a date and time with an offset, such as 2026-11-22T19:30:00+01:00 (years 1970 to 2999)"


def action_url(text: str) -> str:
    """Return a click target."""
    if (fault := fault_of_link(text)) is not None:
        raise ValueError(fault)
    return text


def cursor(text: str) -> str:
    """Return where a list goes on: the id that the page before ended with.

    Another text would mean another place in each database.
    """
    if not is_id(text):
        raise ValueError("must be the nextCursor of the page before")
    return text


def small(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a JSON object of at most 16 KiB."""
    if len(msgspec.json.encode(value)) > MAX_JSON:
        raise ValueError(f"must be at most {MAX_JSON} bytes of JSON")
    return value


UserId = Annotated[str, AfterValidator(user_id)]
Email = Annotated[str, AfterValidator(email)]
Phone = Annotated[str, AfterValidator(phone)]
LocaleTag = Annotated[str, AfterValidator(locale)]
TimeZone = Annotated[str, AfterValidator(timezone)]
Instant = Annotated[datetime, BeforeValidator(instant), WithJsonSchema(_INSTANT_SCHEMA)]
Cursor = Annotated[str, AfterValidator(cursor)]
ActionUrl = Annotated[str, AfterValidator(action_url)]
SmallObject = Annotated[dict[str, JsonValue], AfterValidator(small)]
