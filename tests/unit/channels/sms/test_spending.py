"""The daily caps that an SMS counts against, and the settings that describe them."""

from datetime import date

import pytest
from pydantic import SecretStr

from tidings.channels.sms.numbers import CountryPolicy, parse_number
from tidings.channels.sms.settings import SmsSettings, read_spending_limits
from tidings.channels.sms.spending import (
    SPEND_KEY,
    SpendingLimits,
    describe_refusal,
    list_amounts,
    parse_money,
    parse_prefix_caps,
    parse_prices,
)
from tidings.errors import ConfigError
from tidings.ports.quotas import QuotaAmount

GERMAN, BRITISH, PREMIUM = "+491701234567", "+447400123456", "+449098790000"
DAY = date(2026, 11, 22)


def test_c71_the_longest_prefix_counts_and_others_share_their_calling_code() -> None:
    limits = SpendingLimits({"+44": 100, "+44909": 5, "*": 1000})
    assert list_amounts(limits, parse_number(PREMIUM), 2) == [QuotaAmount("sms +44909", 2, 5)]
    assert list_amounts(limits, parse_number(BRITISH), 1) == [QuotaAmount("sms +44", 1, 100)]
    assert list_amounts(limits, parse_number(GERMAN), 1) == [QuotaAmount("sms +49", 1, 1000)]
    assert list_amounts(SpendingLimits({"+44": 100}), parse_number(GERMAN), 1) == []


def test_c71_the_price_of_each_segment_counts_against_the_spend_cap() -> None:
    limits = SpendingLimits(prices=parse_prices(["+49=0.075", "*=0.10"]), daily_spend=parse_money("20"))
    assert list_amounts(limits, parse_number(GERMAN), 3) == [QuotaAmount(SPEND_KEY, 225_000, 20_000_000)]
    assert list_amounts(limits, parse_number(BRITISH), 1) == [QuotaAmount(SPEND_KEY, 100_000, 20_000_000)]


def test_a_refusal_names_the_cap_the_setting_and_when_it_ends() -> None:
    prefix = describe_refusal(QuotaAmount("sms +44909", 1, 5), DAY)
    assert prefix == (
        "the daily cap of 5 segments to +44909 is used up (TIDINGS_SMS__PREFIX_CAPS); "
        "counted anew from 2026-11-23 00:00 UTC"
    )
    spend = describe_refusal(QuotaAmount(SPEND_KEY, 1, 20_500_000), DAY)
    assert spend.startswith("the daily spend cap of 20.5 is used up (TIDINGS_SMS__DAILY_SPEND)")


def test_numbers_with_a_premium_rate_are_refused_unless_they_are_allowed() -> None:
    number = parse_number(PREMIUM)
    assert CountryPolicy(frozenset({"GB"})).find_refusal(number) == (
        "the number has a premium rate; an operator can allow it in TIDINGS_SMS__ALLOW_PREMIUM"
    )
    assert CountryPolicy(frozenset({"GB"}), allows_premium=True).find_refusal(number) is None
    assert CountryPolicy(frozenset({"DE"}), allows_premium=True).find_refusal(number) is not None


@pytest.mark.parametrize("entry", ["+44", "44=5", "+44=", "+44=-1", "+44=1.5", "=5", "+4x=5", "+44=9" * 20])
def test_a_wrong_cap_is_refused_with_an_example(entry: str) -> None:
    with pytest.raises(ValueError, match=r"\+4490=50"):
        parse_prefix_caps([entry])


@pytest.mark.parametrize("text", ["", "a", "-1", "NaN", "Infinity", "0.0000001", "1e30"])
def test_a_wrong_price_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"0\.075"):
        parse_money(text)


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"prefix_caps": ("44=5",)}, "TIDINGS_SMS__PREFIX_CAPS"),
        ({"prefix_caps": ("+44=5", "+44=6")}, "TIDINGS_SMS__PREFIX_CAPS"),
        ({"prices": ("+44=a",)}, "TIDINGS_SMS__PRICES"),
        ({"daily_spend": "much"}, "TIDINGS_SMS__DAILY_SPEND"),
        ({"daily_spend": "20", "prices": ("+49=0.075",)}, "TIDINGS_SMS__PRICES"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], setting: str) -> None:
    settings = SmsSettings.model_validate({"url": SecretStr("https://a:s@sms.example"), **values})
    with pytest.raises(ConfigError) as raised:
        read_spending_limits(settings)
    assert raised.value.setting == setting
