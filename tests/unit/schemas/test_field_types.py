"""Single values: ids, addresses, locales, time zones, instants, text."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tidings.schemas import field_types


@pytest.mark.parametrize(
    ("check", "given", "kept"),
    [
        (field_types.check_user_id, "auth0|123", "auth0|123"),
        (field_types.check_user_id, "ü" * 200, "ü" * 200),
        (field_types.check_email, "ana+news@example.co.uk", "ana+news@example.co.uk"),
        (field_types.check_email, "root@localhost", "root@localhost"),
        (field_types.check_phone, "+41441234567", "+41441234567"),
        (field_types.normalize_locale, "de-ch", "de-CH"),
        (field_types.normalize_locale, "de_CH", "de-CH"),
        (field_types.normalize_locale, "ZH-hant-tw", "zh-Hant-TW"),
        (field_types.normalize_locale, "es-419", "es-419"),
        (field_types.normalize_locale, "en-DE", "en-DE"),
        (field_types.normalize_timezone, "europe/zurich", "Europe/Zurich"),
        (field_types.normalize_timezone, "UTC", "UTC"),
        (field_types.normalize_timezone, "Asia/Calcutta", "Asia/Calcutta"),
        (field_types.check_action_url, "/orders/1?x=1#y", "/orders/1?x=1#y"),
        (field_types.check_single_line, " Jazz night ", "Jazz night"),
        (field_types.check_single_line, "👨\u200d👩\u200d👧 phone", "👨\u200d👩\u200d👧 phone"),
        (field_types.check_printable, "two\nlines\n", "two\nlines"),
    ],
)
def test_good_values_are_kept_in_their_usual_form(check: Callable[[str], str], given: str, kept: str) -> None:
    assert check(given) == kept


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (field_types.check_user_id, ""),
        (field_types.check_user_id, "x" * 201),
        (field_types.check_user_id, "a\nb"),
        (field_types.check_user_id, " a"),
        (field_types.check_user_id, "a/b"),
        (field_types.check_user_id, "me"),
        (field_types.check_user_id, ".."),
        (field_types.check_email, "ana"),
        (field_types.check_email, "ana@"),
        (field_types.check_email, "ana@example.org\r\nBcc: x@y.z"),
        (field_types.check_email, "a b@example.org"),
        (field_types.check_email, "a@b@c.d"),
        (field_types.check_phone, "0441234567"),
        (field_types.check_phone, "+41 44 123 45 67"),
        (field_types.check_phone, "+٤١٤٤١٢٣٤٥٦٧"),
        (field_types.normalize_locale, "xx"),
        (field_types.normalize_locale, "german"),
        (field_types.normalize_locale, ""),
        (field_types.normalize_locale, "de-CH\n"),
        (field_types.normalize_timezone, "Mars/Olympus"),
        (field_types.normalize_timezone, "../../etc/passwd"),
        (field_types.normalize_timezone, "+01:00"),
        (field_types.check_action_url, "javascript:alert(1)"),
        (field_types.check_single_line, ""),
        (field_types.check_single_line, " \n"),
        (field_types.check_single_line, "two\nlines"),
        (field_types.check_single_line, "two\u2028lines"),
        (field_types.check_single_line, "bell\x07"),
        (field_types.check_printable, "nul\0"),
        (field_types.check_printable, "half\ud800"),
    ],
)
def test_bad_values_are_refused(check: Callable[[str], str], given: str) -> None:
    with pytest.raises(ValueError, match=r"must|known"):
        check(given)


@pytest.mark.parametrize(
    "given",
    ["2026-11-22T18:00:00Z", "2026-11-22t18:00z", "2026-11-22 13:00:00.000-05:00", "2026-11-22T18:00:00.000000000Z"],
)
def test_rfc_3339_instants_are_parsed_and_converted_to_utc(given: str) -> None:
    assert field_types.parse_instant(given) == datetime(2026, 11, 22, 18, tzinfo=UTC)


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
def test_invalid_instants_are_rejected(given: object) -> None:
    with pytest.raises(ValueError, match="offset"):
        field_types.parse_instant(given)
