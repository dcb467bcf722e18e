"""What single values must look like, with error messages that say what would be right."""

import functools
import re
import zoneinfo
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlsplit

from babel import Locale, UnknownLocaleError
from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

MAX_USER_ID: Final = 200
MAX_URL: Final = 2000
#: bytes of a user's attributes or a notification's variables, as JSON
MAX_JSON: Final = 16 * 1024

_EMAIL = re.compile(r"[^\s@<>\"(),:;\\\[\]]{1,64}@[^\s@<>\"(),:;\\\[\]]{1,253}")
_PHONE = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_LOCALE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|\d{3}))?(?:-[A-Za-z\d]{1,8})*", re.ASCII)


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
    return {name.lower(): name for name in zoneinfo.available_timezones()}


def timezone(text: str) -> str:
    """Return an IANA time-zone name."""
    name = _zones().get(text.lower())
    if name is None:
        raise ValueError("must be an IANA time-zone name such as Europe/Zurich")
    return name


def instant(value: object) -> object:
    """Return the instant of an ISO 8601 text with offset, in UTC."""
    if not isinstance(value, str):
        raise ValueError("must be an instant such as 2026-11-22T18:00:00+01:00")
    try:
        read = datetime.fromisoformat(value)
        if read.tzinfo is None:
            raise ValueError("must carry an offset, such as 2026-11-22T18:00:00+01:00 or …Z")
        return read.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is too far away") from error
    except ValueError as error:
        if "offset" in str(error):
            raise
        raise ValueError("must be an instant such as 2026-11-22T18:00:00+01:00") from error


def action_url(text: str) -> str:
    """Return a click target: an absolute http(s) URL without user and password, or a path that starts with one `/`.

    Everything else could lead elsewhere than it looks: `javascript:`, `//evil`, `/\\evil`, control characters.
    """
    if len(text) > MAX_URL or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(f"must be at most {MAX_URL} printable characters without blanks and backslashes")
    if text.startswith("/") and not text.startswith("//"):
        return text
    try:
        parts = urlsplit(text)
        hostname, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("must be a URL such as https://example.org/orders/1") from error
    if parts.scheme not in {"http", "https"} or not hostname or "@" in parts.netloc:
        raise ValueError("must be an absolute http(s) URL without user and password, or a path that starts with one /")
    return text


def printable(text: str) -> str:
    """Return text without control characters."""
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable text without blanks around it")
    return text


UserId = Annotated[str, AfterValidator(user_id)]
Email = Annotated[str, AfterValidator(email)]
Phone = Annotated[str, AfterValidator(phone)]
LocaleTag = Annotated[str, AfterValidator(locale)]
TimeZone = Annotated[str, AfterValidator(timezone)]
Instant = Annotated[datetime, BeforeValidator(instant)]
ActionUrl = Annotated[str, AfterValidator(action_url)]
Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
JsonObject = dict[str, JsonValue]
