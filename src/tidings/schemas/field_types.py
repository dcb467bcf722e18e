"""Field types of schemas: validation and normalization of single values. Error messages state what is allowed."""

import functools
import re
import zoneinfo
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, WithJsonSchema

from tidings.model.ids import is_id
from tidings.model.links import validate_link
from tidings.model.request import MAX_VARIABLES_BYTES
from tidings.model.subject import MAX_KEY_LENGTH
from tidings.model.topic import TOPIC_NAME

MAX_USER_ID_LENGTH: Final = 200
#: bytes of a user's attributes or a notification's variables, as JSON
MAX_JSON_BYTES: Final = MAX_VARIABLES_BYTES

_EMAIL = re.compile(r"[^\s@<>\"(),:;\\\[\]]{1,64}@[^\s@<>\"(),:;\\\[\]]{1,253}")
_PHONE = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_LOCALE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|\d{3}))?(?:-[A-Za-z\d]{1,8})*", re.ASCII)
# RFC 3339 §5.6, seconds are optional; `fromisoformat` would also accept week dates and dates without a time
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_INSTANT_SCHEMA = {"type": "string", "format": "date-time", "examples": ["2026-11-22T19:30:00+01:00"]}
#: C0 and C1 controls except tab and line breaks, and unpaired surrogates
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_BREAK = re.compile("[\t\r\n\u2028\u2029]")


def check_printable(text: str) -> str:
    """Return the stripped text. Raises ValueError for control characters other than tab and line breaks."""
    if _UNPRINTABLE.search(text):
        raise ValueError("must not contain control characters")
    return text.strip()


def check_single_line(text: str) -> str:
    """Return the stripped line. Raises ValueError for line breaks, control characters and blank text."""
    if _LINE_BREAK.search(text.strip()):
        raise ValueError("must be a single line")
    line = check_printable(text)
    if not line:
        raise ValueError("must not be blank")
    return line


def check_user_id(text: str) -> str:
    """Return a user id: 1 to 200 printable characters that form one URL path segment. Raises ValueError."""
    if not 1 <= len(text) <= MAX_USER_ID_LENGTH or not text.isprintable() or text != text.strip():
        raise ValueError(f"must be 1 to {MAX_USER_ID_LENGTH} printable characters without surrounding whitespace")
    if "/" in text or text in {".", "..", "me"}:
        raise ValueError("must not contain / and must not be one of: me, ., ..")
    return text


def check_email(text: str) -> str:
    """Return an e-mail address, within the limits of RFC 5321 §4.5.3. Quoted local parts are not supported."""
    if len(text) > 254 or not text.isprintable() or not _EMAIL.fullmatch(text):
        raise ValueError("must be an e-mail address such as ana@example.org")
    return text


def check_phone(text: str) -> str:
    """Return an E.164 phone number."""
    if not _PHONE.fullmatch(text):
        raise ValueError("must be a phone number with country code, such as +41441234567 (E.164)")
    return text


@functools.lru_cache(maxsize=1024)
def normalize_locale(text: str) -> str:
    """Return a BCP 47 tag in its canonical case. The language must be known; the region is not checked."""
    # takes a tenth of a second; settings of packs use the other types of this module
    from babel import Locale, UnknownLocaleError

    if len(text) > 35 or not _LOCALE.fullmatch(text.replace("_", "-")):
        raise ValueError("must be a language tag such as de-CH (BCP 47)")
    parts = text.replace("_", "-").split("-")
    try:
        Locale(parts[0].lower())
    except UnknownLocaleError as error:
        raise ValueError(f"{parts[0]} is not a known language; use a tag such as de-CH (BCP 47)") from error
    subtags = [parts[0].lower()]
    for part in parts[1:]:
        if len(part) == 4 and part.isalpha():
            subtags.append(part.title())
        else:
            subtags.append(part.upper() if len(part) == 2 else part.lower())
    return "-".join(subtags)


@functools.cache
def _load_zones() -> dict[str, str]:
    # without the two that name no place: `localtime` is this machine's zone, `Factory` means that none was set
    return {name.lower(): name for name in zoneinfo.available_timezones() - {"localtime", "Factory"}}


def normalize_timezone(text: str) -> str:
    """Return an IANA time-zone name."""
    name = _load_zones().get(text.lower())
    if name is None:
        raise ValueError("must be an IANA time-zone name such as Europe/Zurich")
    return name


@functools.cache
def _load_countries() -> frozenset[str]:
    # imported here, because commands that read the database load no locale data
    from babel import Locale

    # without regions that are no country (EU, UN), and codes for tests and for an unknown country
    excluded = {"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"}
    return frozenset(str(code) for code in Locale("en").territories if len(str(code)) == 2) - excluded


def normalize_country(text: str) -> str:
    """Return an ISO 3166-1 alpha-2 code in upper case."""
    code = text.upper()
    if code not in _load_countries():
        raise ValueError("must be a country code of two letters such as CH (ISO 3166-1 alpha-2)")
    return code


def check_topic(text: str) -> str:
    """Return a topic: a name of 1 to 100 letters, digits and `.`, `_`, `:`, `-`. Raises ValueError."""
    if not TOPIC_NAME.fullmatch(text):
        raise ValueError("must be 1 to 100 letters, digits or . _ : - and begin with a letter or digit")
    return text


def parse_instant(value: object) -> object:
    """Return the instant of an RFC 3339 text, in UTC. The offset is required. Raises ValueError."""
    try:
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            instant = datetime.fromisoformat(value.upper()).astimezone(UTC)
            if 1970 <= instant.year <= 2999:
                return instant
    except (ValueError, OverflowError) as error:
        # ValueError: invalid day or hour; OverflowError: the offset moves it out of the years 1 to 9999
        raise ValueError(_instant_error()) from error
    raise ValueError(_instant_error())


def _instant_error() -> str:
    return "must be a date and time with an offset, such as 2026-11-22T19:30:00+01:00 (years 1970 to 2999)"


def check_action_url(text: str) -> str:
    """Return a click target, see `validate_link`."""
    if (problem := validate_link(text)) is not None:
        raise ValueError(problem)
    return text


def check_cursor(text: str) -> str:
    """Return a keyset cursor: the last id of the previous page.

    Other text is rejected, because databases would order it differently.
    """
    if not is_id(text):
        raise ValueError("must be the nextCursor of the previous page")
    return text


def check_json_size(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a JSON object of at most 16 KiB."""
    if len(msgspec.json.encode(value)) > MAX_JSON_BYTES:
        raise ValueError(f"must be at most {MAX_JSON_BYTES} bytes of JSON")
    return value


#: a name or a title
Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(check_single_line)]
SubjectKey = Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH), AfterValidator(check_single_line)]
UserId = Annotated[str, AfterValidator(check_user_id)]
Email = Annotated[str, AfterValidator(check_email)]
Phone = Annotated[str, AfterValidator(check_phone)]
LocaleTag = Annotated[str, AfterValidator(normalize_locale)]
Country = Annotated[str, AfterValidator(normalize_country)]
TopicName = Annotated[str, AfterValidator(check_topic)]
TimeZone = Annotated[str, AfterValidator(normalize_timezone)]
Instant = Annotated[datetime, BeforeValidator(parse_instant), WithJsonSchema(_INSTANT_SCHEMA)]
Cursor = Annotated[str, AfterValidator(check_cursor)]
ActionUrl = Annotated[str, AfterValidator(check_action_url)]
SmallObject = Annotated[dict[str, JsonValue], AfterValidator(check_json_size)]
