"""Addresses of chats: four services, one destination each, no parameter that apprise would act on."""

import logging
import sys
from pathlib import Path

import pytest

from tidings.channels.chat import plugin
from tidings.channels.chat.destination import Service, describe_destination, parse_destination
from tidings.config.settings import Settings
from tidings.errors import ConfigError

TOKEN = "123456789:AAbbccddeeffgghhiijjkkllmmnnooppqqr"
HOST = "prod-01.westeurope.logic.azure.com"


@pytest.mark.parametrize(
    ("address", "canonical", "path", "channel"),
    [
        ("slack://T1/B1/abc", "slack://T1/B1/abc", "/services/T1/B1/abc", None),
        ("https://hooks.slack.com/services/T1/B1/abc", "slack://T1/B1/abc", "/services/T1/B1/abc", None),
        ("slack://xoxb-1-2-abc/#ops", "slack://xoxb-1-2-abc/%23ops", "/api/chat.postMessage", "#ops"),
        ("slack://xoxb-1-2-abc/ops", "slack://xoxb-1-2-abc/%23ops", "/api/chat.postMessage", "#ops"),
        ("slack://xoxb-1-2-abc/+C024BE91L", "slack://xoxb-1-2-abc/%2BC024BE91L", "/api/chat.postMessage", "C024BE91L"),
        ("discord://12/to-ken_1?thread=9", "discord://12/to-ken_1?thread=9", "/api/webhooks/12/to-ken_1", None),
        ("https://discord.com/api/webhooks/12/toKen", "discord://12/toKen", "/api/webhooks/12/toKen", None),
        (f"tgram://{TOKEN}/-1001", f"tgram://{TOKEN}/-1001", f"/bot{TOKEN}/sendMessage", "-1001"),
        (f"tgram://{TOKEN}/@shop:7", f"tgram://{TOKEN}/@shop?topic=7", f"/bot{TOKEN}/sendMessage", "@shop"),
    ],
)  # fmt: skip
def test_an_address_has_one_canonical_form(address: str, canonical: str, path: str, channel: str | None) -> None:
    destination = parse_destination(address)
    assert (destination.address, destination.path, destination.channel) == (canonical, path, channel)
    assert parse_destination(canonical) == destination


@pytest.mark.parametrize(
    "address",
    [
        f"workflows://{HOST}/wf1/sIg",
        f"workflow://{HOST}:443/wf1/sIg",
        f"https://{HOST}:443/workflows/wf1/triggers/manual/paths/invoke"
        "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=sIg",
    ],
)
def test_a_workflow_of_teams_has_one_canonical_form(address: str) -> None:
    destination = parse_destination(address)
    assert destination.service is Service.TEAMS
    assert destination.address == f"workflows://{HOST}/wf1/sIg?ver=2016-06-01"
    assert destination.path.startswith(f"https://{HOST}/workflows/wf1/triggers/manual/paths/invoke?api-version=2016")
    assert parse_destination(destination.address) == destination


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mailto://user:pass@mail.example", "must be slack://"),
        ("json://hooks.example/", "must be slack://"),
        ("vapid://x/y", "must be slack://"),
        ("https://hooks.example/services/T1/B1/abc", "must be slack://"),
        ("https://discord.com.evil.example/api/webhooks/12/toKen", "must be slack://"),
        ("slack://", "must be slack://"),
        ("msteams://a/b/c", "were retired"),
        ("slack://T1/B1", "is not a complete address of slack"),
        ("slack://T1/B1/abc/ops", "posts to its own channel"),
        ("slack://xoxb-1-2-abc", "must name one channel"),
        ("slack://xoxb-1-2-abc/a/b", "must name one channel"),
        ("slack://xoxb-1-2-abc/ana@example.org", "must name one channel"),
        ("slack://T1/B1/abc?template=file:///etc/passwd", "parameter that is not supported"),
        ("slack://T1/B1/abc?:name=x", "parameter that is not supported"),
        ("slack://T1/B1/abc?mode=work", "parameter that is not supported"),
        ("discord://12/..%2F..%2Fusers", "must be discord://"),
        ("discord://12%2F34/token", "must be discord://"),
        ("discord://12/token?avatar_url=https://x.example", "parameter that is not supported"),
        ("discord://12/token?thread=../9", "thread by its id"),
        (f"tgram://{TOKEN}", "must name one chat"),
        (f"tgram://{TOKEN}/1/2", "must name one chat"),
        (f"tgram://{TOKEN}/1/?to=2", "parameter that is not supported"),
        ("tgram://nonsense/1", "must be slack://"),
        ("workflows://hooks.example/wf1/sIg", "must have a host of Microsoft"),
        ("workflows://127.0.0.1/wf1/sIg", "must have a host of Microsoft"),
        (f"workflows://{HOST}:8443/wf1/sIg", "must have a host of Microsoft"),
        (f"workflows://{HOST}/wf1/sIg?ver=1%26x=2", "api-version that is not a date"),
        ("slack://T1/B1/abc\\def", "must be a plain ASCII URL"),
        ("slack://T1/B1/ab c", "must be a plain ASCII URL"),
        ("slack://" + "a" * 1_000, "at most 1000 characters"),
    ],
)
def test_other_addresses_are_refused(address: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=message):
        parse_destination(address)
    # apprise's warnings contain the tokens
    assert caplog.records == []


def test_a_trusted_host_may_be_one_of_a_workflow() -> None:
    address = "workflows://teams.internal:8443/wf1/sIg"
    assert parse_destination(address, frozenset({"teams.internal:8443"})).path.startswith(
        "https://teams.internal:8443/"
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("slack://T1/B1/abc", "slack://T1/…"),
        ("slack://xoxb-1-2-abc/%23ops", "slack://…/#ops"),
        ("discord://12/token", "discord://12/…"),
        (f"tgram://{TOKEN}/-1001", "tgram://123456789:…/-1001"),
        (f"workflows://{HOST}/wf1/sIg", f"workflows://{HOST}/…"),
        ("broken://secret", "broken://…"),
    ],
)
def test_a_description_contains_no_secret(address: str, shown: str) -> None:
    assert describe_destination(address) == shown


def test_the_extra_is_required_to_enable_the_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not plugin.is_configured(Settings())
    monkeypatch.setenv("TIDINGS_CHAT__ENABLED", "true")
    assert plugin.is_configured(Settings())
    monkeypatch.setattr(sys.modules[type(plugin).__module__], "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"TIDINGS_CHAT__ENABLED: .*pip install 'tidings\[chat\]'"):
        plugin.is_configured(Settings())
    assert plugin.parse_address(" slack://T1/B1/abc ", Settings()) == "slack://T1/B1/abc"
