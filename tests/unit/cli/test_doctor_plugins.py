"""The checks of channels and packs in `tidings doctor`."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tidings.channels.plugin import CheckContext
from tidings.channels.webpush.plugin import WebPushPlugin
from tidings.cli import doctor_plugins
from tidings.cli.doctor_plugins import check_plugins
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.errors import BackendError
from tidings.model.check import CheckResult

SECRET = "a secret for the tests"


class Broken(WebPushPlugin):
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def check(self, context: CheckContext) -> Sequence[CheckResult]:
        raise self._error


def list_found(settings: Settings, *, is_database_readable: bool) -> list[CheckResult]:
    """Return the results of the channels that are configured."""
    found = check_plugins(settings, is_database_readable=is_database_readable)
    return [one for one in found if one.level != "skipped" and one.check != "channel webpush"]


@pytest.fixture
async def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of an installation that was started once."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(data_dir=tmp_path, secret_key=SECRET, frontend_url="https://shop.example")
    async with AppContainer.open(settings):
        return settings


def test_the_vapid_keys_are_decrypted(settings: Settings) -> None:
    [found] = list_found(settings, is_database_readable=True)
    assert (found.level, found.check) == ("ok", "TIDINGS_SECRET_KEY")
    assert list_found(settings, is_database_readable=False) == []
    for wrong in (
        settings.model_copy(update={"secret_key": "another secret of the tests"}),
        Settings.model_copy(settings, update={"secret_key": ""}),
    ):
        [found] = list_found(wrong, is_database_readable=True)
        assert (found.level, found.check) == ("problem", "TIDINGS_SECRET_KEY")


def test_a_database_that_does_not_exist_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(data_dir=tmp_path / "data")
    [found] = list_found(settings, is_database_readable=True)
    assert (found.level, found.check) == ("warning", "TIDINGS_VAPID_SUBJECT")
    assert not (tmp_path / "data").exists()


def test_a_fault_of_one_channel_hides_no_other_check(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = {"a": Broken(KeyError("x")), "b": Broken(BackendError("it is down")), "webpush": WebPushPlugin()}
    monkeypatch.setattr(doctor_plugins, "load_channel_plugins", lambda: plugins)
    assert [(one.level, one.check, one.message) for one in check_plugins(settings, is_database_readable=True)] == [
        ("problem", "channel a", "KeyError: 'x'"),
        ("problem", "channel b", "it is down"),
        ("ok", "channel webpush", "is configured"),
        ("ok", "TIDINGS_SECRET_KEY", "decrypts the encrypted fields of the database"),
    ]


def test_a_channel_that_is_not_configured_is_skipped_with_its_setting(settings: Settings) -> None:
    found = check_plugins(settings, is_database_readable=False)
    skipped = {one.check: one.message for one in found if one.level == "skipped"}
    for channel, setting in (
        ("email", "TIDINGS_SMTP_URL"),
        ("sms", "TIDINGS_SMS_URL"),
        ("inapp", "TIDINGS_INAPP__ENABLED"),
        ("webhook", "TIDINGS_WEBHOOK__ENABLED"),
        ("chat", "TIDINGS_CHAT__ENABLED"),
    ):
        assert skipped[f"channel {channel}"] == f"is not configured; set {setting} to use it"


def test_a_wrong_setting_of_a_channel_is_a_problem_of_this_channel_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDINGS_SMTP_URL", "smtp://127.0.0.1:1")
    problems = [one for one in list_found(settings, is_database_readable=False) if one.level == "problem"]
    assert [one.check for one in problems] == ["channel email"]
    assert "TIDINGS_EMAIL_FROM: is not set" in problems[0].message


@pytest.mark.parametrize(
    ("channel", "values"),
    [
        ("webpush", {}),
        ("sms", {"TIDINGS_SMS_URL": "https://a:s@127.0.0.1:1?from=+16502530000"}),
        ("inapp", {"TIDINGS_INAPP__ENABLED": "true"}),
        ("webhook", {"TIDINGS_WEBHOOK__ENABLED": "true"}),
        ("chat", {"TIDINGS_CHAT__ENABLED": "true"}),
    ],
)
def test_each_configured_channel_is_named(settings: Settings, channel: str, values: dict[str, str]) -> None:
    found = check_plugins(settings.with_channel_values(values), is_database_readable=True)
    assert CheckResult("ok", f"channel {channel}", "is configured") in found


def test_the_addresses_for_events_of_providers_are_shown(settings: Settings) -> None:
    mail = {"TIDINGS_SMTP_URL": "smtp://127.0.0.1:1", "TIDINGS_EMAIL_FROM": "Acme <news@acme.example>"}
    found = check_plugins(settings.with_channel_values(mail), is_database_readable=False)
    [events] = [one for one in found if one.check == "events of email"]
    assert (events.level, "provider-events.md" in events.message) == ("skipped", True)
    secret = {"TIDINGS_EMAIL__HOOK_SECRET": "a secret of sixteen characters"}
    found = check_plugins(settings.with_channel_values({**mail, **secret}), is_database_readable=False)
    [events] = [one for one in found if one.check == "events of email"]
    assert (events.level, "/hooks/email/postmark" in events.message) == ("ok", True)


def test_feeds_are_read_and_need_user_tokens(settings: Settings) -> None:
    enabled = settings.with_channel_values({"TIDINGS_INAPP__ENABLED": "true"})
    found = {one.check: one.level for one in check_plugins(enabled, is_database_readable=True)}
    assert (found["feeds"], found["TIDINGS_USER_SECRET"]) == ("ok", "warning")
    signed = enabled.model_copy(update={"user_secret": "a secret of the tests, long enough"})
    assert "TIDINGS_USER_SECRET" not in {one.check for one in check_plugins(signed, is_database_readable=True)}


def test_c65_the_samples_of_templates_are_measured_for_the_configured_channels(settings: Settings) -> None:
    found = check_plugins(settings, is_database_readable=False)
    assert [one for one in found if one.check.startswith("template ")] == []
    values = {
        "TIDINGS_SMS_URL": "https://a:s@127.0.0.1:1?from=Acme",
        "TIDINGS_SMS__COUNTRIES": "DE",
        "TIDINGS_SMTP_URL": "smtp://127.0.0.1:1",
        "TIDINGS_EMAIL_FROM": "Acme <news@acme.example>",
    }
    found = check_plugins(settings.with_channel_values(values), is_database_readable=False)
    lines = [(one.level, one.message) for one in found if one.check == "template LOW_STOCK_ALERT"]
    assert [level for level, _ in lines] == ["ok", "ok", "problem"]
    size, segments, opt_out = (message for _, message in lines)
    assert "bytes of HTML" in size
    assert "in UCS-2 because of" in segments
    assert "recipients cannot answer STOP to the sender 'Acme'" in opt_out
