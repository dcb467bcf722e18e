"""Single values: ids, addresses, locales, time zones, instants, text."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tidings.edge import fields, text


@pytest.mark.parametrize(
    ("check", "given", "kept"),
    [
        (fields.user_id, "auth0|123", "auth0|123"),
        (fields.user_id, "ü" * 200, "ü" * 200),
        (fields.email, "ana+news@example.co.uk", "ana+news@example.co.uk"),
        (fields.email, "root@localhost", "root@localhost"),
        (fields.phone, "+41441234567", "+41441234567"),
        (fields.locale, "de-ch", "de-CH"),
        (fields.locale, "de_CH", "de-CH"),
        (fields.locale, "ZH-hant-tw", "zh-Hant-TW"),
        (fields.locale, "es-419", "es-419"),
        (fields.locale, "en-DE", "en-DE"),
        (fields.timezone, "europe/zurich", "Europe/Zurich"),
        (fields.timezone, "UTC", "UTC"),
        (fields.timezone, "Asia/Calcutta", "Asia/Calcutta"),
        (fields.action_url, "/orders/1?x=1#y", "/orders/1?x=1#y"),
        (text.one_line, " Jazz night ", "Jazz night"),
        (text.one_line, "👨\u200d👩\u200d👧 phone", "👨\u200d👩\u200d👧 phone"),
        (text.readable, "two\nlines\n", "two\nlines"),
    ],
)
def test_good_values_are_kept_in_their_usual_form(check: Callable[[str], str], given: str, kept: str) -> None:
    assert check(given) == kept


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (fields.user_id, ""),
        (fields.user_id, "x" * 201),
        (fields.user_id, "a\nb"),
        (fields.user_id, " a"),
        (fields.user_id, "a/b"),
        (fields.user_id, "me"),
        (fields.user_id, ".."),
        (fields.email, "ana"),
        (fields.email, "ana@"),
        (fields.email, "ana@example.org\r\nBcc: x@y.z"),
        (fields.email, "a b@example.org"),
        (fields.email, "a@b@c.d"),
        (fields.phone, "0441234567"),
        (fields.phone, "+41 44 123 45 67"),
        (fields.phone, "+٤١٤٤١٢٣٤٥٦٧"),
        (fields.locale, "xx"),
        (fields.locale, "german"),
        (fields.locale, ""),
        (fields.locale, "de-CH\n"),
        (fields.timezone, "Mars/Olympus"),
        (fields.timezone, "../../etc/passwd"),
        (fields.timezone, "+01:00"),
        (fields.action_url, "javascript:alert(1)"),
        (text.one_line, ""),
        (text.one_line, " \n"),
        (text.one_line, "two\nlines"),
        (text.one_line, "two\u2028lines"),
        (text.one_line, "bell\x07"),
        (text.readable, "nul\0"),
        (text.readable, "half\ud800"),
    ],
)
def test_bad_values_are_refused(check: Callable[[str], str], given: str) -> None:
    with pytest.raises(ValueError, match=r"must|known"):
        check(given)


@pytest.mark.parametrize(
    "given",
    ["2026-11-22T18:00:00Z", "2026-11-22t18:00z", "2026-11-22 13:00:00.000-05:00", "2026-11-22T18:00:00.000000000Z"],
)
def test_instants_are_read_as_rfc_3339_writes_them_and_kept_in_utc(given: str) -> None:
    assert fields.instant(given) == datetime(2026, 11, 22, 18, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        "2026-11-22T19:00:00",
        "2026-11-22",
        "2026-W47-7T19:00:00Z",
        "2026-13-22T19:00:00Z",
        "2026-11-22T25:00:00Z",
        "tomorrow",
        "",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        "٢٠٢٦-11-22T19:00:00Z",
        1795374000,
        None,
    ],
)
def test_what_names_no_instant_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="offset"):
        fields.instant(given)
