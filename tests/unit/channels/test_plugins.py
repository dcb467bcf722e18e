"""The declarations of the SMS, the webhook and the chat channel."""

from pathlib import Path

import pytest

from tidings.channels import chat, sms, webhook
from tidings.channels.plugin import ChannelPlugin
from tidings.config.settings import Settings

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
    assert sms.plugin.parse_address("+49 170 1234567") == "+491701234567"
    assert webhook.plugin.parse_address("https://hooks.example/in") == "https://hooks.example/in"
    with pytest.raises(ValueError, match="must be a phone number with its country code"):
        sms.plugin.parse_address("0170 1234567")
    with pytest.raises(ValueError, match="must begin with https://"):
        webhook.plugin.parse_address("http://hooks.example/in")
    monkeypatch.setenv("TIDINGS_WEBHOOK__TRUSTED_HOSTS", "hooks.example")
    assert webhook.plugin.parse_address("http://hooks.example/in") == "http://hooks.example/in"
