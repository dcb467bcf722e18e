"""The checks of SMS providers and of the endpoint of status events, against real servers."""

from pathlib import Path

import pytest

from tidings.channels.chat.plugin import ChatPlugin
from tidings.channels.http.check_responses import read_credentials_response, read_endpoint_response
from tidings.channels.http.exchange import HttpResponse, NoResponse
from tidings.channels.plugin import CheckContext
from tidings.channels.sms.plugin import SmsPlugin
from tidings.channels.webhook.plugin import WebhookPlugin
from tidings.config.settings import Settings
from tidings.errors import ConfigError
from tidings.mockmail import MockMail
from tidings.testing.fake_providers import FakeSmsProvider
from tidings.testing.http_server import HttpServer, Reply

SENDER = "from=%2B15005550006"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckContext:
    monkeypatch.chdir(tmp_path)
    return CheckContext(Settings(data_dir=tmp_path), None)


async def test_an_sms_provider_confirms_the_account_without_sending(
    context: CheckContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeSmsProvider() as provider:
        monkeypatch.setenv("TIDINGS_SMS_URL", f"{provider.url_with_credentials}?{SENDER}")
        [found] = await SmsPlugin().check(context)
        assert (found.level, found.check) == ("ok", "SMS provider twilio")
        wrong = provider.url_with_credentials.replace(provider.secret, "not-the-secret")
        monkeypatch.setenv("TIDINGS_SMS_URL", f"{wrong}?{SENDER}")
        [found] = await SmsPlugin().check(context)
        assert (found.level, "correct TIDINGS_SMS_URL" in found.message) == ("problem", True)
        assert "not-the-secret" not in found.message
        assert provider.messages == []
    [found] = await SmsPlugin().check(context)
    assert (found.level, "could not connect" in found.message) == ("problem", True)


async def test_the_mock_mail_service_accepts_any_account(
    context: CheckContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MockMail() as mail:
        monkeypatch.setenv("TIDINGS_SMS_URL", mail.address.sms_url)
        [found] = await SmsPlugin().check(context)
    assert found.level == "ok"


async def test_the_endpoint_of_status_events_is_reached_without_an_event(
    context: CheckContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await WebhookPlugin().check(context) == []
    async with HttpServer(lambda request: Reply(405 if request.path == "/in" else 301)) as server:
        monkeypatch.setenv("TIDINGS_WEBHOOK__TRUSTED_HOSTS", server.authority)
        for path, level in (("/in", "ok"), ("/moved", "problem")):
            monkeypatch.setenv("TIDINGS_WEBHOOK__EVENTS_URL", server.url + path)
            [found] = await WebhookPlugin().check(context)
            assert (found.level, found.check) == (level, "status events")
        assert [(one.method, one.body) for one in server.requests] == [("GET", b""), ("GET", b"")]
    [found] = await WebhookPlugin().check(context)
    assert (found.level, "could not connect" in found.message) == ("problem", True)


@pytest.mark.parametrize(
    ("status", "credentials", "endpoint"),
    [
        (200, "ok", "ok"),
        (204, "ok", "ok"),
        (302, "warning", "problem"),
        (400, "warning", "ok"),
        (401, "problem", "ok"),
        (404, "warning", "warning"),
        (410, "warning", "warning"),
        (503, "warning", "warning"),
    ],
)
def test_a_status_is_judged_by_what_was_asked(status: int, credentials: str, endpoint: str) -> None:
    assert read_credentials_response("x", HttpResponse(status), "TIDINGS_X").level == credentials
    assert read_endpoint_response("x", HttpResponse(status), "TIDINGS_X").level == endpoint


def test_no_answer_is_a_problem_that_names_the_setting() -> None:
    for read in (read_credentials_response, read_endpoint_response):
        found = read("x", NoResponse("host closed the connection without an answer"), "TIDINGS_X")
        assert (found.level, "TIDINGS_X" in found.message) == ("problem", True)


async def test_own_servers_of_chats_are_reached_and_the_public_ones_are_not(
    context: CheckContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await ChatPlugin().check(context) == []
    monkeypatch.setenv("TIDINGS_CHAT__ENABLED", "true")
    [found] = await ChatPlugin().check(context)
    assert (found.level, found.check) == ("ok", "chat services")
    assert found.message == "posts to slack.com, hooks.slack.com, discord.com, api.telegram.org"
    async with HttpServer(lambda _: Reply(404)) as server:
        monkeypatch.setenv("TIDINGS_CHAT__TRUSTED_HOSTS", server.authority)
        monkeypatch.setenv("TIDINGS_CHAT__TELEGRAM_URL", server.url)
        own, public = await ChatPlugin().check(context)
        assert (own.level, own.check) == ("ok", "TIDINGS_CHAT__TELEGRAM_URL")
        assert "api.telegram.org" not in public.message
        assert [(one.method, one.body) for one in server.requests] == [("GET", b"")]
    own, _ = await ChatPlugin().check(context)
    assert (own.level, "could not connect" in own.message) == ("problem", True)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIDINGS_CHAT__DISCORD_URL", "http://discord.example"),
        ("TIDINGS_CHAT__CA_FILE", "missing.pem"),
        ("TIDINGS_CHAT__TRUSTED_HOSTS", "a/b"),
    ],
)
async def test_a_wrong_setting_of_chats_is_named(
    context: CheckContext, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("TIDINGS_CHAT__ENABLED", "true")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{variable}: "):
        await ChatPlugin().check(context)
