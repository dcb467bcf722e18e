"""The settings of Web Push: long and short names, sources, and what is refused."""

from pathlib import Path

import pytest

from tidings.channels.webpush.settings import (
    FALLBACK_SUBJECT,
    WebPushSettings,
    list_webpush_settings,
    load_webpush_settings,
)
from tidings.config.settings import Settings
from tidings.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(frontend_url: str = "http://127.0.0.1:8000", **values: str) -> WebPushSettings:
    return load_webpush_settings(Settings(frontend_url=frontend_url).with_channel_values(values))


def test_the_short_and_the_long_names_are_read(folder: Path) -> None:
    (folder / "ca.pem").touch()
    settings = load(
        TIDINGS_VAPID_SUBJECT="mailto:ops@shop.example",
        TIDINGS_WEBPUSH__EXTRA_HOSTS="127.0.0.1:9000, push.internal ,",
        TIDINGS_PUSH_CA_FILE="ca.pem",
    )
    assert settings.subject == "mailto:ops@shop.example"
    assert settings.extra_hosts == ("127.0.0.1:9000", "push.internal")
    assert settings.ca_file == Path("ca.pem")
    with pytest.raises(ConfigError, match="is set, and so is TIDINGS_VAPID_SUBJECT; unset one of them"):
        load(TIDINGS_VAPID_SUBJECT="mailto:a@b.example", TIDINGS_WEBPUSH__SUBJECT="mailto:c@d.example")


def test_the_contact_for_push_services_defaults_to_a_public_site() -> None:
    assert load().subject == FALLBACK_SUBJECT
    assert load("https://app.example.com/x").subject == "https://app.example.com"


@pytest.mark.parametrize("text", ['push_extra_hosts = ["a:1", "b"]', '[webpush]\nextra_hosts = ["a:1", "b"]'])
def test_the_settings_are_read_from_toml(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tidings.toml").write_text(text)
    assert load().extra_hosts == ("a:1", "b")
    monkeypatch.setenv("TIDINGS_PUSH_EXTRA_HOSTS", "c:3")
    assert load().extra_hosts == ("c:3",)


def test_the_settings_are_listed_with_their_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("TIDINGS_PUSH_EXTRA_HOSTS=a:1,b:2\n")
    monkeypatch.setenv("TIDINGS_WEBPUSH__SUBJECT", "mailto:ops@shop.example")
    assert [tuple(source) for source in list_webpush_settings(Settings())] == [
        ("TIDINGS_WEBPUSH__SUBJECT", "mailto:ops@shop.example", "environment"),
        ("TIDINGS_PUSH_EXTRA_HOSTS", "a:1,b:2", ".env"),
        ("TIDINGS_PUSH_CA_FILE", "(unset)", "default"),
        ("TIDINGS_WEBPUSH__TRACK_SHOWN", "(none)", "default"),
        ("TIDINGS_WEBPUSH__TRACK_CLICKS", "(none)", "default"),
    ]


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("TIDINGS_VAPID_SUBJECT", "mailto:<a@b.example>", "mailto:ops@your-domain"),
        ("TIDINGS_VAPID_SUBJECT", "mailto:me@localhost", "mailto:ops@your-domain"),
        ("TIDINGS_PUSH_EXTRA_HOSTS", "http://x/", "host[:port]"),
        ("TIDINGS_PUSH_CA_FILE", "/nowhere.pem", "PEM file"),
        ("TIDINGS_WEBPUSH__SUBJCT", "mailto:a@b.example", "known are: subject, extra_hosts, ca_file"),
    ],
)
def test_a_wrong_value_names_the_setting_and_the_fix(variable: str, value: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{variable: value})
    assert caught.value.setting == variable
    assert fix in caught.value.message
