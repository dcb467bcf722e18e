"""Amounts of money and quantities in the reader's locale."""

import pytest

from tidings.localization.amounts import format_money, format_quantity


@pytest.mark.parametrize(
    ("value", "locale", "text"),
    [
        ([4999, "INR"], "en-IN", "₹4,999.00"),
        ([4999, "INR"], "hi", "₹4,999.00"),
        (["49.9", "EUR"], "de", "49,90\u00a0€"),
        # English without a country has the format of international English
        ([1200, "JPY"], "en", "1,200\u00a0JP¥"),
        ([-5, "EUR"], "en-US", "-€5.00"),
        ([5, "eur"], "xx-unknown", "5.00\u00a0€"),
        # no currency and no amount: shown as they are
        ([5, "gold coins"], "en", "5 GOLD COINS"),
        (["much", "EUR"], "en", "much EUR"),
        (["1e999999999", "EUR"], "en", "1e999999999 EUR"),
        (["NaN", "EUR"], "en", "NaN EUR"),
        ([True, "EUR"], "en", "True EUR"),
        ("49.90 EUR", "en", "49.90 EUR"),
        (None, "en", "None"),
    ],
)
def test_money_is_formatted_for_the_locale(value: object, locale: str, text: str) -> None:
    assert format_money(value, locale, "UTC") == text


@pytest.mark.parametrize(
    ("value", "locale", "text"),
    [
        (12500, "en", "12,500"),
        (12500.5, "de", "12.500,5"),
        ("7", "fr", "7"),
        ("a few", "en", "a few"),
        (None, "en", "None"),
    ],
)
def test_quantities_are_formatted_for_the_locale(value: object, locale: str, text: str) -> None:
    assert format_quantity(value, locale, "UTC") == text
