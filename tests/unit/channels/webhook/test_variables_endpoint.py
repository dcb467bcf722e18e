"""Endpoints that are asked for variables: signed requests, the answers that count, and the addresses that do not."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from tidings.channels.webhook import WebhookSettings, create_variables_endpoints, generate_secret
from tidings.errors import ConfigError
from tidings.model.recurring import NothingToSend, ResolvedVariables, SourceFailed, SourceRequest, SourceResult
from tidings.ports.clock import SystemClock
from tidings.testing.http_server import Answer, Disconnect, Hang, HttpServer, ReceivedRequest, Reply

SECRETS = (generate_secret(), generate_secret())
REQUEST = SourceRequest(
    "weekly",
    "MESSAGE",
    "0199aaaa-0000-7000-8000-000000000001",
    datetime(2026, 11, 23, 8, tzinfo=UTC),
    ("", "Asia/Tokyo"),
)


class Host:
    """A host product with an endpoint whose answer a test chooses."""

    def __init__(self) -> None:
        self.answer: Answer = Reply(200, b'{"variables": {"orders": 3}}')
        self.requests: list[ReceivedRequest] = []
        self.server = HttpServer(self._handle)

    def _handle(self, request: ReceivedRequest) -> Answer:
        self.requests.append(request)
        return self.answer

    async def ask(self, *, timeout: float = 15.0, trusted: bool = True) -> SourceResult:
        hosts = (self.server.authority,) if trusted else ()
        settings = WebhookSettings(trusted_hosts=hosts, events_secret=SECRETS, timeout=timeout)
        endpoints = create_variables_endpoints(settings, SystemClock())
        try:
            return await endpoints.fetch(f"{self.server.url}/week?a=b", REQUEST)
        finally:
            await endpoints.close()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    async with host.server:
        yield host


async def test_c15_the_request_is_signed_with_every_secret_and_names_the_run(host: Host) -> None:
    assert await host.ask() == ResolvedVariables({"orders": 3})
    [request] = host.requests
    assert (request.method, request.target, request.headers["webhook-id"]) == ("POST", "/week?a=b", REQUEST.run_id)
    for secret in SECRETS:
        Webhook(secret).verify(request.body, dict(request.headers))
    body: dict[str, Any] = msgspec.json.decode(request.body)
    assert body["type"] == "recurring.variables"
    assert body["data"] == {
        "name": "weekly",
        "templateCode": "MESSAGE",
        "runId": REQUEST.run_id,
        "scheduledAt": "2026-11-23T08:00:00Z",
        "timezones": ["", "Asia/Tokyo"],
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Reply(204), None),
        (Reply(500), "answered 500"),
        (Reply(302, headers={"Location": "https://elsewhere.example"}), "answered 302"),
        (Reply(201, b'{"variables": {}}'), "answered 201"),
        (Reply(200, b""), "The body is empty"),
        (Reply(200, b"<html>"), "is not JSON"),
        (Reply(200, b"[]"), "must answer"),
        (Reply(200, b'{"variables": []}'), "must answer"),
        (Reply(200, b'{"vars": {}}'), "must answer"),
        (Reply(200, b'{"variables": {"a": "\\u0000"}}'), "NUL"),
        (Reply(200, b'{"variables": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}"), "nested too deeply"),
        (Reply(200, b'{"variables": {"a": "' + b"x" * 70_000 + b'"}}'), "65536 bytes or more"),
        (Disconnect(), "closed the connection"),
    ],
)
async def test_c15_each_answer_has_its_result(host: Host, answer: Answer, expected: str | None) -> None:
    host.answer = answer
    result = await host.ask()
    if expected is None:
        assert result == NothingToSend()
    else:
        assert isinstance(result, SourceFailed)
        assert expected in result.why


async def test_c15_an_endpoint_that_does_not_answer_is_given_up(host: Host) -> None:
    host.answer = Hang()
    async with asyncio.timeout(10):
        result = await host.ask(timeout=0.2)
    assert isinstance(result, SourceFailed)
    assert "did not answer within 0.2 s" in result.why


async def test_c15_a_host_that_is_not_trusted_any_more_is_not_called(host: Host) -> None:
    result = await host.ask(trusted=False)
    assert isinstance(result, SourceFailed)
    assert result.why.startswith("variablesUrl: must begin with https://, unless TIDINGS_WEBHOOK__TRUSTED_HOSTS names")
    assert host.requests == []


async def test_c15_without_a_secret_nothing_is_called(host: Host) -> None:
    endpoints = create_variables_endpoints(WebhookSettings(trusted_hosts=(host.server.authority,)), SystemClock())
    result = await endpoints.fetch(host.server.url, REQUEST)
    assert isinstance(result, SourceFailed)
    assert "set TIDINGS_WEBHOOK__EVENTS_SECRET" in result.why
    assert host.requests == []
    with pytest.raises(ConfigError, match="TIDINGS_WEBHOOK__EVENTS_SECRET"):
        create_variables_endpoints(WebhookSettings(events_secret=("short",)), SystemClock())
