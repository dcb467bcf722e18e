"""Single values: ids, addresses, locales, time zones, instants, click targets."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tidings.api import fields


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
        (fields.action_url, "https://example.org/a", "https://example.org/a"),
        (fields.action_url, "http://127.0.0.1:8000/", "http://127.0.0.1:8000/"),
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
        (fields.action_url, ""),
        (fields.action_url, "javascript:alert(1)"),
        (fields.action_url, "//evil.example"),
        (fields.action_url, "/\\evil.example"),
        (fields.action_url, "https://user:pass@evil.example/"),
        (fields.action_url, "https:///path"),
        (fields.action_url, "data:text/html,x"),
        (fields.action_url, "orders/1"),
        (fields.action_url, "/a\tb"),
        (fields.action_url, "https://example.org:port/"),
        (fields.action_url, "https://[::1/"),
    ],
)
def test_bad_values_are_refused(check: Callable[[str], str], given: str) -> None:
    with pytest.raises(ValueError, match=r"must|known"):
        check(given)


def test_an_instant_is_kept_in_utc() -> None:
    assert fields.instant("2026-11-22T18:00:00+01:00") == datetime(2026, 11, 22, 17, tzinfo=UTC)


@pytest.mark.parametrize("given", ["2026-11-22T18:00:00", "tomorrow", "", 0, None, "0001-01-01T00:00:00+14:00"])
def test_what_names_no_instant_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"must|far"):
        fields.instant(given)
