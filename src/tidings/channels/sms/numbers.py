"""Phone numbers: E.164, their country, and the countries that may be reached."""

from collections.abc import Set

import msgspec

from tidings.errors import ValidationFailed

#: all countries
ANY_COUNTRY = "*"
_HINT = "must be a phone number with its country code, such as +491701234567"


class PhoneNumber(msgspec.Struct, frozen=True):
    """A phone number that is possible, that is, has a length that occurs in its country."""

    #: `+` and digits
    e164: str
    #: ISO 3166-1 code in upper case, None for numbers of no country, such as satellite phones
    country: str | None
    #: country calling code, such as 49
    calling_code: int
    #: False for a number whose range is not assigned as far as is known
    is_valid: bool
    #: calls and messages cost the sender or the recipient more than usual
    is_premium: bool


class CountryPolicy(msgspec.Struct, frozen=True):
    """The countries whose numbers may be reached."""

    #: ISO 3166-1 codes in upper case, or `*`
    countries: frozenset[str]
    #: whether numbers with a premium rate may be reached
    allows_premium: bool = False

    def find_refusal(self, number: PhoneNumber) -> str | None:
        """Return why a number may not be reached, with the setting that allows it; None if it may."""
        if number.is_premium and not self.allows_premium:
            return "the number has a premium rate; an operator can allow it in TIDINGS_SMS__ALLOW_PREMIUM"
        if ANY_COUNTRY in self.countries or (number.country is not None and number.country in self.countries):
            return None
        country = number.country or f"+{number.calling_code}"
        return (
            f"the country of the number ({country}) is not allowed; an operator can allow it in TIDINGS_SMS__COUNTRIES"
        )


def parse_number(text: str, region: str | None = None, field: str = "address") -> PhoneNumber:
    """Return a phone number. region: the user's ISO 3166-1 code, for a number without its country code.

    Raises ValidationFailed for `field` if it is not a possible number. A possible number that is not valid is returned:
    new ranges are assigned before the metadata knows them.
    """
    # about 7 MB and half a second, so only where a number is parsed
    import phonenumbers
    from phonenumbers import PhoneNumberType

    if len(text) > 64:
        raise ValidationFailed.for_field(field, _HINT)
    try:
        parsed = phonenumbers.parse(text, region.upper() if region else None)
    except phonenumbers.NumberParseException:
        raise ValidationFailed.for_field(field, _HINT) from None
    if not phonenumbers.is_possible_number(parsed):
        raise ValidationFailed.for_field(field, f"is not a possible phone number; it {_HINT}")
    calling_code = int(parsed.country_code or 0)
    country = phonenumbers.region_code_for_number(parsed) or phonenumbers.region_code_for_country_code(calling_code)
    kind = phonenumbers.number_type(parsed)
    return PhoneNumber(
        phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164),
        # 001 = not geographical, ZZ = unknown
        None if country in ("001", "ZZ", None) else country,
        calling_code,
        is_valid=phonenumbers.is_valid_number(parsed),
        is_premium=kind in (PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST),
    )


def is_country(code: str, known: Set[str] | None = None) -> bool:
    """Return whether a text is a country code that numbers exist for, or `*`. known: default: all."""
    if code == ANY_COUNTRY:
        return True
    if known is None:
        import phonenumbers

        known = phonenumbers.SUPPORTED_REGIONS
    return code in known
