"""The declarations of the SMS, the webhook and the chat channel."""

import hashlib
import hmac
from datetime import timedelta
from pathlib import Path

import pytest

from tidings.channels import chat, email, inapp, sms, webhook
from tidings.channels.plugin import ChannelPlugin, HasAddressCheck, HasHooks, HookRequest
from tidings.config.settings import Settings
from tidings.testing.clock import START

PLUGINS: dict[str, ChannelPlugin] = {"sms": sms.plugin, "webhook": webhook.plugin, "chat": chat.plugin}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_channel_is_configured_by_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert {name: plugin.is_configured(settings) for name, plugin in PLUGINS.items()} == {
        "sms": False,
        "webhook": False,
        "chat": False,
    }
    monkeypatch.setenv("TIDINGS_SMS_URL", "https://a:s@x?from=+16502530000")
    monkeypatch.setenv("TIDINGS_WEBHOOK__ENABLED", "true")
    monkeypatch.setenv("TIDINGS_CHAT__ENABLED", "true")
    assert [name for name, plugin in PLUGINS.items() if plugin.is_configured(settings)] == ["sms", "webhook", "chat"]


def test_attempts_are_those_of_the_retry_policy() -> None:
    assert {name: plugin.traits.max_attempts for name, plugin in PLUGINS.items()} == {
        "sms": 4,
        "webhook": 10,
        "chat": 4,
    }


def test_addresses_are_brought_into_their_canonical_form(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert sms.plugin.parse_address("+49 170 1234567", settings) == "+491701234567"
    assert webhook.plugin.parse_address("https://hooks.example/in", settings) == "https://hooks.example/in"
    with pytest.raises(ValueError, match="must be a phone number with its country code"):
        sms.plugin.parse_address("0170 1234567", settings)
    with pytest.raises(ValueError, match="must begin with https://"):
        webhook.plugin.parse_address("http://hooks.example/in", settings)
    monkeypatch.setenv("TIDINGS_WEBHOOK__TRUSTED_HOSTS", "hooks.example")
    assert webhook.plugin.parse_address("http://hooks.example/in", settings) == "http://hooks.example/in"


@pytest.mark.parametrize(
    ("plugin", "values"),
    [
        (email.plugin, {"TIDINGS_SMTP_URL": "smtp://127.0.0.1:9", "TIDINGS_EMAIL_FROM": "Acme <a@acme.example>"}),
        (sms.plugin, {"TIDINGS_SMS_URL": "https://a:s@x?from=+16502530000"}),
        (webhook.plugin, {"TIDINGS_WEBHOOK__ENABLED": "true"}),
        (chat.plugin, {"TIDINGS_CHAT__ENABLED": "true"}),
        (inapp.plugin, {"TIDINGS_INAPP__ENABLED": "true"}),
    ],
)
def test_every_channel_is_configured_by_values_of_the_program(plugin: ChannelPlugin, values: dict[str, str]) -> None:
    assert not plugin.is_configured(Settings())
    assert plugin.is_configured(Settings().with_channel_values(values))


def test_trusted_hosts_of_the_program_apply_to_addresses() -> None:
    settings = Settings().with_channel_values({"TIDINGS_WEBHOOK__TRUSTED_HOSTS": "hooks.example"})
    assert webhook.plugin.parse_address("http://hooks.example/in", settings) == "http://hooks.example/in"


async def test_c50_hooks_are_verified_with_the_secrets_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings().with_channel_values({"TIDINGS_EMAIL__HOOK_SECRET": "a secret of sixteen characters"})
    assert isinstance(email.plugin, HasHooks)
    hooks = email.plugin.create_hooks(settings)
    # a change of the environment does not reach hooks that exist
    monkeypatch.setenv("TIDINGS_EMAIL__HOOK_SECRET", "another secret of sixteen characters")
    assert hooks.providers == ["dsn", "generic", "postmark"]
    assert email.plugin.create_hooks(Settings().with_channel_values({})).providers == hooks.providers
    body = b'{"events": []}'
    request = HookRequest("generic", "/hooks/email/generic", "", _sign(body), body, START)
    assert (await hooks.read(request)).events == []


def test_c50_hooks_of_sms_use_the_values_of_the_program() -> None:
    values = {
        "TIDINGS_SMS_URL": "https://a:s@x?from=+16502530000",
        "TIDINGS_SMS__CALLBACK_URL": "https://tidings.example/hooks/sms/twilio",
        "TIDINGS_SMS__MAX_SILENCE_HOURS": "7",
    }
    assert isinstance(sms.plugin, HasHooks)
    assert sms.plugin.create_hooks(Settings()).providers == []
    hooks = sms.plugin.create_hooks(Settings().with_channel_values(values))
    assert (hooks.providers, hooks.feedback.max_silence) == (["twilio"], timedelta(hours=7))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("+16502530000", None),
        ("+447400123456", r"the country of the number \(GB\) is not allowed; .* TIDINGS_SMS__COUNTRIES"),
        ("+19002530000", r"the number has a premium rate; .* TIDINGS_SMS__ALLOW_PREMIUM"),
    ],
)
def test_c70_a_number_that_cannot_be_reached_is_refused_as_a_contact_point(number: str, reason: str | None) -> None:
    assert isinstance(sms.plugin, HasAddressCheck)
    settings = Settings().with_channel_values({"TIDINGS_SMS_URL": "https://a:s@x?from=+16502530000"})
    # without a provider there is no policy
    sms.plugin.check_address(number, Settings())
    if reason is None:
        sms.plugin.check_address(number, settings)
        return
    with pytest.raises(ValueError, match=reason):
        sms.plugin.check_address(number, settings)


def _sign(body: bytes) -> dict[str, str]:
    signature = hmac.digest(b"a secret of sixteen characters", body, hashlib.sha256).hex()
    return {"x-tidings-signature": f"sha256={signature}"}
