"""Phone numbers and the countries that may be reached."""

import pytest

from tidings.channels.sms.numbers import CountryPolicy, parse_number
from tidings.errors import ValidationFailed


@pytest.mark.parametrize(
    ("text", "region", "e164", "country"),
    [
        ("+49 170 1234567", None, "+491701234567", "DE"),
        ("0170 1234567", "DE", "+491701234567", "DE"),
        ("0170 1234567", "de", "+491701234567", "DE"),
        ("(650) 253-0000", "US", "+16502530000", "US"),
        ("+1 876 555 0123", None, "+18765550123", "JM"),
        ("+44 7400 123456", "US", "+447400123456", "GB"),
        ("+7 701 123 4567", None, "+77011234567", "KZ"),
        ("+39 06 4687 1234", None, "+390646871234", "IT"),
    ],
)
def test_c70_a_number_is_returned_in_e164_with_its_country(
    text: str, region: str | None, e164: str, country: str
) -> None:
    number = parse_number(text, region)
    assert (number.e164, number.country) == (e164, country)


def test_c70_a_possible_number_that_is_not_valid_is_accepted() -> None:
    number = parse_number("+15550000000")
    assert (number.e164, number.country, number.is_valid) == ("+15550000000", "US", False)


@pytest.mark.parametrize(
    "text", ["", "0170 1234567", "+", "+49", "abc", "+999 123 456 789", "+1" * 40, "1" * 200, "＋", "tel:"]
)
def test_an_impossible_number_is_refused_and_the_field_named(text: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse_number(text, field="phone")
    assert [error.field for error in refused.value.field_errors] == ["phone"]


def test_only_allowed_countries_are_reached() -> None:
    policy = CountryPolicy(frozenset({"US", "DE"}))
    assert policy.find_refusal(parse_number("+16502530000")) is None
    assert policy.find_refusal(parse_number("+491701234567")) is None
    # the same country code as the United States
    assert (
        policy.find_refusal(parse_number("+18765550123"))
        == "the country of the number (JM) is not allowed; an operator can allow it in TIDINGS_SMS__COUNTRIES"
    )
    assert (
        policy.find_refusal(parse_number("+447400123456"))
        == "the country of the number (GB) is not allowed; an operator can allow it in TIDINGS_SMS__COUNTRIES"
    )


def test_numbers_of_no_country_need_all_countries() -> None:
    satellite = parse_number("+8816 1234 5678")
    assert satellite.country is None
    assert (
        CountryPolicy(frozenset({"US"})).find_refusal(satellite)
        == "the country of the number (+881) is not allowed; an operator can allow it in TIDINGS_SMS__COUNTRIES"
    )
    assert CountryPolicy(frozenset({"*"})).find_refusal(satellite) is None


@pytest.mark.parametrize("text", ["+1 900 253 0000", "+49 900 1 123456", "+44 909 012 3456"])
def test_c70_premium_rates_are_refused_in_every_country(text: str) -> None:
    assert CountryPolicy(frozenset({"*"})).find_refusal(parse_number(text)) == (
        "the number has a premium rate; an operator can allow it in TIDINGS_SMS__ALLOW_PREMIUM"
    )
