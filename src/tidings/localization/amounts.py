"""Formats amounts of money and quantities in the reader's locale. Template filters, which never raise."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from tidings.localization.locale_and_zone import find_locale

# Babel is imported at its first use, see `dates`.


def format_money(value: object, locale: str, _timezone: str) -> str:
    """Return `[amount, currency]` as `€4,999.00` or `4.999,00 €`.

    amount: a number, or a decimal text such as `4999.00`; currency: ISO 4217. A value that is neither is returned as
    text.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return str(value)
    amount, currency = _to_decimal(value[0]), str(value[1]).upper()
    if amount is None:
        return f"{value[0]} {currency}"
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        return f"{format_quantity(value[0], locale, _timezone)} {currency}"
    from babel.numbers import format_currency

    return format_currency(amount, currency, locale=find_locale(locale))


def format_quantity(value: object, locale: str, _timezone: str) -> str:
    """Return a number as `12,500.5` or `12.500,5`. Any other value is returned as text."""
    amount = _to_decimal(value)
    if amount is None:
        return str(value)
    from babel.numbers import format_decimal

    return format_decimal(amount, locale=find_locale(locale))


def _to_decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    # beyond it, Babel would write thousands of digits
    return amount if amount.is_finite() and abs(amount.adjusted()) <= 20 else None
