"""The settings of a channel from variables, `.env` and files."""

from pathlib import Path

import pytest

from tidings.channels.sms.settings import SmsSettings
from tidings.channels.webhook import WebhookSettings
from tidings.config.plugin_settings import load_plugin_settings
from tidings.errors import ConfigError

URL = "https://a:s3cret@sms.example?from=+16502530000"


def load(environ: dict[str, str], folder: Path) -> SmsSettings:
    aliases = {"TIDINGS_SMS_URL": "url"}
    return load_plugin_settings(SmsSettings, "TIDINGS_SMS__", aliases=aliases, environ=environ, folder=folder)


def test_variables_are_read_and_converted(tmp_path: Path) -> None:
    settings = load(
        {
            "TIDINGS_SMS_URL": URL,
            "TIDINGS_SMS__COUNTRIES": "DE, AT",
            "TIDINGS_SMS__PLAIN_TEXT": "true",
            "TIDINGS_SMS__TIMEOUT": "2.5",
            "TIDINGS_SMS__SENDER": "",
            "TIDINGS_OTHER": "x",
        },
        tmp_path,
    )
    assert settings.url is not None
    assert settings.url.get_secret_value() == URL
    assert (settings.countries, settings.plain_text, settings.timeout) == (("DE", "AT"), True, 2.5)
    assert settings.sender is None


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TIDINGS_SMS__SENDER=File\nTIDINGS_SMS__MAX_SEGMENTS=3\n")
    settings = load({"TIDINGS_SMS__SENDER": "Shell"}, tmp_path)
    assert (settings.sender, settings.max_segments) == ("Shell", 3)


@pytest.mark.parametrize("name", ["TIDINGS_SMS_URL_FILE", "TIDINGS_SMS__URL_FILE"])
def test_a_secret_can_be_in_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    settings = load({name: str(tmp_path / "url")}, tmp_path)
    assert settings.url is not None
    assert settings.url.get_secret_value() == URL


def test_a_field_that_is_a_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    settings = load_plugin_settings(
        WebhookSettings, "TIDINGS_WEBHOOK__", environ={"TIDINGS_WEBHOOK__CA_FILE": str(path)}, folder=tmp_path
    )
    assert settings.ca_file == path


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TIDINGS_SMS__SENDR": "x"}, "TIDINGS_SMS__SENDR: is not a setting"),
        ({"TIDINGS_SMS__TIMEOUT": "0"}, "TIDINGS_SMS__TIMEOUT: input should be greater than 0"),
        ({"TIDINGS_SMS_URL": URL, "TIDINGS_SMS__URL": URL}, "is set, and so is TIDINGS_SMS_URL; unset one of them"),
        ({"TIDINGS_SMS_URL_FILE": "/missing/file"}, "TIDINGS_SMS_URL_FILE: cannot read /missing/file"),
    ],
)
def test_an_error_names_the_variable(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(environ, tmp_path)
    assert message in refused.value.message
    assert "s3cret" not in refused.value.message
