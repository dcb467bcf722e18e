"""Instants in the zone of a venue name the zone to readers whose clocks differ."""

import pytest

from tidings.localization.dates import format_instant_at_venue

START = "2026-12-05T18:00:00+00:00"


@pytest.mark.parametrize(
    ("value", "reader", "text"),
    [
        ([START, "Europe/Zurich"], "Europe/Berlin", "Sat, 5 Dec 2026, 19:00"),
        ([START, "Europe/Zurich"], "America/New_York", "Sat, 5 Dec 2026, 19:00 CET"),
        ([START, "Europe/Zurich"], "UTC", "Sat, 5 Dec 2026, 19:00 CET"),
        ([START, "UTC"], "Europe/Berlin", "Sat, 5 Dec 2026, 18:00 UTC"),
        ([START, ""], "Europe/Berlin", "Sat, 5 Dec 2026, 19:00"),
        ([START, None], "Asia/Tokyo", "Sun, 6 Dec 2026, 03:00"),
        ([None, "Europe/Zurich"], "UTC", ""),
        ("soon", "UTC", "soon"),
    ],
)
def test_the_zone_is_named_where_the_readers_clock_differs(value: object, reader: str, text: str) -> None:
    assert format_instant_at_venue(value, "en", reader) == text
