"""The settings of the SMS channel."""

import pytest
from pydantic import SecretStr

from tidings.channels.http.origin import Origin
from tidings.channels.sms.settings import (
    ProviderUrl,
    SmsSettings,
    create_country_policy,
    create_sms_channel,
    list_provider_urls,
)
from tidings.errors import ConfigError
from tidings.testing.clock import FrozenClock


def make_settings(url: str, **values: object) -> SmsSettings:
    return SmsSettings.model_validate({"url": SecretStr(url), **values})


def test_without_a_provider_there_is_no_channel() -> None:
    assert create_sms_channel(SmsSettings(), FrozenClock()) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "https://AC1:to%2Fken@api.twilio.com?from=+15005550006",
            ProviderUrl(
                "twilio",
                "https://api.twilio.com",
                Origin("https", "api.twilio.com", 443, is_trusted=True),
                "AC1",
                "to/ken",
                "+15005550006",
                None,
            ),
        ),
        (
            "twilio://AC1:token@?messagingService=MG1",
            ProviderUrl(
                "twilio",
                "https://api.twilio.com",
                Origin("https", "api.twilio.com", 443, is_trusted=True),
                "AC1",
                "token",
                None,
                "MG1",
            ),
        ),
        (
            "vonage+http://key:secret@127.0.0.1:9000/api/?from=Acme",
            ProviderUrl(
                "vonage",
                "http://127.0.0.1:9000/api",
                Origin("http", "127.0.0.1", 9000, is_trusted=True),
                "key",
                "secret",
                "Acme",
                None,
            ),
        ),
        (
            "vonage://key:secret@?from=%2B15005550006",
            ProviderUrl(
                "vonage",
                "https://rest.nexmo.com",
                Origin("https", "rest.nexmo.com", 443, is_trusted=True),
                "key",
                "secret",
                "+15005550006",
                None,
            ),
        ),
    ],
)
def test_the_short_form_names_provider_account_and_sender(url: str, expected: ProviderUrl) -> None:
    assert list_provider_urls(make_settings(url)) == [expected]


def test_separate_settings_complete_the_url() -> None:
    settings = make_settings("https://key:secret@sms.example", provider="vonage", sender="Acme", countries=("de", "AT"))
    url = list_provider_urls(settings)[0]
    assert (url.provider, url.sender) == ("vonage", "Acme")
    channel = create_sms_channel(settings, FrozenClock())
    assert channel is not None
    policy = create_country_policy(settings)
    assert policy is not None
    assert policy.countries == {"DE", "AT"}


@pytest.mark.parametrize(
    ("url", "values", "message"),
    [
        ("https://api.twilio.com?from=+15005550006", {}, "TIDINGS_SMS_URL: has no account and secret"),
        ("ftp://a:s3cret@x?from=+15005550006", {}, "TIDINGS_SMS_URL: must be a URL"),
        ("other+https://a:s3cret@x", {}, "TIDINGS_SMS_URL: must be a URL"),
        ("https://a:s3cret@x:port", {}, "TIDINGS_SMS_URL: must be a URL"),
        ("https://a:s3cret@x?form=+15005550006", {}, "has the unknown parameter 'form'"),
        ("https://a:s3cret@x?from=MoreThanEleven", {}, "has the sender 'MoreThanEleven'"),
        ("https://a:s3cret@x", {"countries": ("DE",)}, "TIDINGS_SMS__SENDER: is required"),
        ("vonage://a:s3cret@", {"countries": ("DE",)}, "TIDINGS_SMS__SENDER: is required for Vonage"),
        ("https://a:s3cret@x?from=Acme", {}, "TIDINGS_SMS__COUNTRIES: is required unless the sender is a number"),
        ("https://a:s3cret@x?from=Acme", {"countries": ("Germany",)}, "TIDINGS_SMS__COUNTRIES: 'GERMANY' is not"),
    ],
)
def test_an_error_names_the_setting_and_no_secret(url: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        create_sms_channel(make_settings(url, **values), FrozenClock())
    assert message in refused.value.message
    assert "s3cret" not in refused.value.message


def test_a_fallback_alone_is_refused() -> None:
    settings = SmsSettings(fallback_url=SecretStr("https://a:s@x?from=+15005550006"))
    with pytest.raises(ConfigError, match=r"^TIDINGS_SMS_URL: is required for a fallback"):
        create_sms_channel(settings, FrozenClock())


def test_the_country_of_the_sender_is_allowed_by_default() -> None:
    policy = create_country_policy(make_settings("https://a:s@x?from=+16502530000"))
    assert policy is not None
    assert policy.countries == {"US"}


def test_secrets_are_not_displayed() -> None:
    assert "s3cret" not in repr(make_settings("https://a:s3cret@x", signature_secret=SecretStr("s3cret")))
