"""The settings of the e-mail channel, and addresses."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tidings.channels.email import plugin
from tidings.channels.email.addresses import parse_address
from tidings.channels.email.channel import create_email_channel
from tidings.channels.email.layout import select_text_color
from tidings.channels.email.relay import Relay, TlsMode, parse_relay
from tidings.channels.email.settings import EmailSettings, load_email_settings
from tidings.config.settings import Settings
from tidings.container import Core
from tidings.errors import ConfigError, ValidationFailed
from tidings.ports.clock import SystemClock
from tidings.testing.clock import FrozenClock


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", Relay("mail.example.com", 587, TlsMode.OPPORTUNISTIC)),
        ("smtp://u%40x:p%2F%40@mail.example.com:2525", Relay("mail.example.com", 2525, TlsMode.REQUIRED, "u@x", "p/@")),
        ("smtps://u:p@mail.example.com", Relay("mail.example.com", 465, TlsMode.IMPLICIT, "u", "p")),
        ("smtp://u:p@localhost:25", Relay("localhost", 25, TlsMode.OPPORTUNISTIC, "u", "p")),
        ("smtp://relay:25?tls=off", Relay("relay", 25, TlsMode.OFF)),
        ("smtp://[::1]:25?tls=unverified", Relay("::1", 25, TlsMode.OPPORTUNISTIC, is_verified=False)),
    ],
)
def test_a_url_names_a_relay(url: str, expected: Relay) -> None:
    assert parse_relay(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "mail.example.com",
        "http://u:secret@x",
        "smtp://u:secret@",
        "smtp://u:secret@host:0x",
        "smtp://u:secret@host:99999",
        "smtp://u:secret@host/path",
        "smtp://u:secret@host?ssl=1",
        "smtps://u:secret@host?tls=off",
        "smtp://:secret@host",
        "smtp://u:sec@ret@ho st",
    ],
)
def test_an_invalid_url_is_refused_without_repeating_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"an example is|tls=|must|has") as found:
        parse_relay(url)
    assert "secret" not in str(found.value)


def test_a_relay_does_not_show_its_password() -> None:
    relay = parse_relay("smtp://u:secret@mail.example.com")
    settings = EmailSettings(smtp_urls="smtp://u:secret@x", sender="a@b.example")
    assert "secret" not in repr(relay) + relay.name + repr(settings)


def test_several_relays_are_separated_by_commas() -> None:
    settings = EmailSettings(smtp_urls="smtp://a, smtps://b", sender="Shop <a@b.example>")
    assert settings.smtp_urls == ("smtp://a", "smtps://b")
    assert (settings.sender_name, settings.sender_address, settings.brand) == ("Shop", "a@b.example", "Shop")


@pytest.mark.parametrize(
    ("values", "fix"),
    [
        ({"sender": "nobody"}, "an example is"),
        ({"sender": "a@b.example\r\nBcc: e@e.example"}, "an example is"),
        ({"brand_color": "red"}, "#2f5bea"),
        ({"logo_url": "javascript:alert(1)"}, "http"),
        ({"smtp_urls": "mail:25", "sender": "a@b.example"}, "smtp://"),
        ({"dkim_key_file": "/missing"}, "PEM"),
    ],
)
def test_an_invalid_setting_names_the_fix(values: dict[str, object], fix: str) -> None:
    with pytest.raises(ValidationError, match=fix):
        EmailSettings(**values)


def test_a_relay_without_a_sender_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_SMTP_URL", "smtp://a")
    with pytest.raises(ConfigError, match="TIDINGS_EMAIL_FROM: is not set"):
        plugin.is_configured(Settings())


def test_the_channel_is_configured_by_two_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert not plugin.is_configured(Settings())
    monkeypatch.setenv("TIDINGS_SMTP_URL", "smtp://a,smtps://b")
    monkeypatch.setenv("TIDINGS_EMAIL_FROM", "Shop <news@shop.example>")
    monkeypatch.setenv("TIDINGS_EMAIL__BRAND_COLOR", "#FF0000")
    assert plugin.is_configured(Settings())
    settings = load_email_settings(Settings())
    assert (settings.smtp_urls, settings.brand, settings.brand_color) == (("smtp://a", "smtps://b"), "Shop", "#ff0000")
    monkeypatch.setenv("TIDINGS_EMAIL__BRAND_COLOR", "red")
    with pytest.raises(ConfigError, match="TIDINGS_EMAIL__BRAND_COLOR"):
        load_email_settings(Settings())


def test_the_plugin_stores_addresses_in_one_spelling() -> None:
    assert plugin.parse_address("Ann@EXAMPLE.com", Settings()) == "Ann@example.com"
    with pytest.raises(ValueError, match="must be an e-mail address"):
        plugin.parse_address("ann", Settings())


def test_without_a_relay_there_is_no_channel() -> None:
    clock = FrozenClock()
    assert create_email_channel(EmailSettings(), clock, public_url="https://x.example", secret_key="s") is None


def test_a_relay_that_is_listed_twice_is_refused() -> None:
    settings = EmailSettings(smtp_urls="smtp://a:25,smtp://u:p@a:25", sender="a@b.example")
    with pytest.raises(ConfigError, match="TIDINGS_SMTP_URL"):
        create_email_channel(settings, FrozenClock(), public_url="https://x.example", secret_key="s")


async def test_a_file_without_a_key_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    settings = EmailSettings(
        smtp_urls="smtp://a:25",
        sender="a@b.example",
        dkim_key_file=tmp_path / "key.pem",
    )
    channel = create_email_channel(settings, FrozenClock(), public_url="https://x.example", secret_key="s")
    assert channel is not None
    with pytest.raises(ConfigError, match="DKIM_KEY_FILE"):
        await channel.open()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann.Smith+tag@Example.COM", "Ann.Smith+tag@example.com"),
        (" ann@example.com ", "ann@example.com"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
        ("änn@example.com", "änn@example.com"),
    ],
)
def test_an_address_keeps_its_local_part(text: str, expected: str) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "ann", "@example.com", "ann@", "ann@localhost", "a b@example.com", "ann@exa mple.com", "a..b@example.com",
        ".a@example.com", "ann@-x.example", "ann@example..com", "ann@1.2.3.4",
        "ann@example.com\r\nRCPT TO:<e@e.example>",
        "Ann <ann@example.com>", "a@b@example.com", "a" * 65 + "@example.com", "ann@" + "a" * 64 + ".example",
        "a\x00@b.example",
    ],
)  # fmt: skip
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed, match=r"ann@example\.com"):
        parse_address(text)


@pytest.mark.parametrize(
    ("color", "expected"), [("#2f5bea", "#ffffff"), ("#ffd400", "#101828"), ("#000000", "#ffffff")]
)
def test_button_text_contrasts_with_the_brand_colour(color: str, expected: str) -> None:
    assert select_text_color(color) == expected


@pytest.mark.parametrize("name", ["TRACK_OPENS", "TRACK_CLICKS", "DUPLICATE_OK"])
def test_c63_an_unknown_category_is_refused_at_the_start(name: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path).with_channel_values({f"TIDINGS_EMAIL__{name}": "MESSAGE,MESAGE"})
    with pytest.raises(ConfigError, match=f"^TIDINGS_EMAIL__{name}: no category 'MESAGE'; did you mean 'MESSAGE'"):
        Core.build(settings, SystemClock())
