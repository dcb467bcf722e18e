"""What SMS may cost: the daily caps that a message counts against. Pure.

Fraud by messages to expensive prefixes is common, so the caps are checked before a provider is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation

from tidings.channels.sms.numbers import PhoneNumber
from tidings.ports.quotas import QuotaAmount

#: prefix of all numbers without a longer one
ANY_PREFIX = "*"
#: parts of the currency unit in which money is counted
MICROS = 1_000_000
#: key of the spending of all messages
SPEND_KEY = "sms spend"
_MAX_MICROS = 10**15


@dataclass(frozen=True, slots=True)
class SpendingLimits:
    """The caps of a day. Empty: nothing is counted."""

    #: prefix in E.164 → segments per day. `*`: per country calling code
    prefix_caps: Mapping[str, int] = field(default_factory=dict)
    #: prefix in E.164 → price of a segment in micros. `*`: all others
    prices: Mapping[str, int] = field(default_factory=dict)
    #: micros per day; None = no cap
    daily_spend: int | None = None


def list_amounts(limits: SpendingLimits, number: PhoneNumber, segments: int) -> Sequence[QuotaAmount]:
    """Return the amounts that a message counts."""
    amounts: list[QuotaAmount] = []
    if (prefix := find_prefix(limits.prefix_caps, number)) is not None:
        shared = f"+{number.calling_code}" if prefix == ANY_PREFIX else prefix
        amounts.append(QuotaAmount(f"sms {shared}", segments, limits.prefix_caps[prefix]))
    if limits.daily_spend is not None and (prefix := find_prefix(limits.prices, number)) is not None:
        amounts.append(QuotaAmount(SPEND_KEY, segments * limits.prices[prefix], limits.daily_spend))
    return amounts


def find_prefix(table: Mapping[str, object], number: PhoneNumber) -> str | None:
    """Return the longest prefix of a table that a number begins with, or `*`, or None."""
    found = [prefix for prefix in table if prefix != ANY_PREFIX and number.e164.startswith(prefix)]
    return max(found, key=len) if found else ANY_PREFIX if ANY_PREFIX in table else None


def describe_refusal(quota: QuotaAmount, day: date) -> str:
    """Return which cap refuses a message, and the setting to change."""
    until = f"counted anew from {day + timedelta(days=1)} 00:00 UTC"
    if quota.key == SPEND_KEY:
        amount = Decimal(quota.maximum) / MICROS
        return f"the daily spend cap of {amount.normalize():f} is used up (TIDINGS_SMS__DAILY_SPEND); {until}"
    prefix = quota.key.removeprefix("sms ")
    return f"the daily cap of {quota.maximum} segments to {prefix} is used up (TIDINGS_SMS__PREFIX_CAPS); {until}"


def parse_prefix_caps(entries: Sequence[str]) -> Mapping[str, int]:
    """Return prefix → segments of `+4490=50`. Raises ValueError with what an entry must be."""
    caps: dict[str, int] = {}
    for prefix, text in _split_entries(entries, "+4490=50"):
        if not (text.isascii() and text.isdecimal()) or int(text) >= _MAX_MICROS:
            raise ValueError(f"{prefix}={text} has no number of segments; an example is +4490=50")
        caps[prefix] = int(text)
    return caps


def parse_prices(entries: Sequence[str]) -> Mapping[str, int]:
    """Return prefix → price of a segment in micros of `+49=0.075`. Raises ValueError with what an entry must be."""
    return {prefix: parse_money(text) for prefix, text in _split_entries(entries, "+49=0.075")}


def parse_money(text: str) -> int:
    """Return an amount in micros. Raises ValueError for anything but a number of up to six decimals."""
    try:
        amount = Decimal(text) * MICROS
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or not 0 <= amount < _MAX_MICROS or amount != int(amount):
        raise ValueError(f"{text!r} is not an amount of money; an example is 0.075")
    return int(amount)


def _split_entries(entries: Sequence[str], example: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in entries:
        prefix, separator, text = (part.strip() for part in entry.partition("="))
        is_prefix = prefix == ANY_PREFIX or (
            prefix.startswith("+") and prefix[1:].isascii() and prefix[1:].isdecimal() and len(prefix) <= 16
        )
        if not separator or not is_prefix:
            raise ValueError(f"{entry!r} must be a prefix and its value, such as {example}, or *=… for all others")
        if prefix in dict(found):
            raise ValueError(f"lists the prefix {prefix} twice; list each once")
        found.append((prefix, text))
    return found
