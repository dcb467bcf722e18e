"""Status events reach the endpoint of the host product at least once, signed, also after a crash."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from tidings.channels.webhook import WebhookSettings, create_status_event_sender, generate_secret
from tidings.channels.webhook.status_events import HIDDEN_FOR, StatusEventSender
from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.errors import ConfigError
from tidings.model.audience import users
from tidings.model.request import NotifyRequest
from tidings.model.user import User
from tidings.observability.alerts import AlertRegistry
from tidings.ports.clock import SystemClock
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.http_server import Answer, HttpServer, Reply

OLD, NEW = generate_secret(), generate_secret()
MESSAGE = NotifyRequest("MESSAGE", users("ana"), {"title": "Hi", "body": "You"})
Open = Callable[[], AbstractAsyncContextManager[AppContainer]]


class Host:
    """The endpoint of the host product."""

    def __init__(self) -> None:
        self.answer: Answer = Reply(204)
        self.server = HttpServer(lambda _request: self.answer)

    def read_events(self) -> list[dict[str, Any]]:
        return [event for one in self.server.requests for event in msgspec.json.decode(one.body)["data"]["events"]]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    async with host.server:
        yield host


@pytest.fixture
def open_process(host: Host, tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that opens a process on the same data."""
    monkeypatch.setenv("TIDINGS_WEBHOOK__EVENTS_URL", f"{host.server.url}/events")
    monkeypatch.setenv("TIDINGS_WEBHOOK__EVENTS_SECRET", f"{NEW},{OLD}")
    monkeypatch.setenv("TIDINGS_WEBHOOK__TRUSTED_HOSTS", host.server.authority)
    return lambda: AppContainer.open(Settings(data_dir=tmp_path), clock=clock, role=Role.SERVE)


async def accept(runtime: AppContainer) -> str:
    async with runtime.store.transaction() as tx:
        await runtime.store.users.upsert(tx, [User("ana")], runtime.clock.now())
    return (await runtime.pipeline.submit(MESSAGE)).id


def get_sender(runtime: AppContainer) -> StatusEventSender:
    assert runtime.status_event_sender is not None
    return runtime.status_event_sender


async def test_events_are_signed_with_each_secret_and_sent_once(
    open_process: Open, host: Host, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("standardwebhooks.webhooks.datetime", _Now(clock))
    async with open_process() as runtime:
        notification = await accept(runtime)
        assert await get_sender(runtime).send_events() == 1
        assert await get_sender(runtime).send_events() == 0
    [request] = host.server.requests
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(request.body, dict(request.headers))["type"] == "status.events"
    [event] = host.read_events()
    assert (event["type"], event["notificationId"]) == ("notification.accepted", notification)


async def test_events_that_a_process_did_not_confirm_are_sent_by_the_next(
    open_process: Open, host: Host, clock: FrozenClock
) -> None:
    async with open_process() as runtime:
        await accept(runtime)
        # as if the process were killed between the claim and the answer
        async with runtime.store.transaction() as tx:
            now = clock.now()
            await runtime.store.status_events.claim_due(tx, now, hidden_until=now + HIDDEN_FOR, limit=9)
        assert await get_sender(runtime).send_events() == 0
    clock.advance(HIDDEN_FOR)
    async with open_process() as runtime:
        assert await get_sender(runtime).send_events() == 1
    assert [event["type"] for event in host.read_events()] == ["notification.accepted"]


async def test_an_endpoint_that_fails_gets_the_same_id_again_until_a_day_has_passed(
    open_process: Open, host: Host, clock: FrozenClock
) -> None:
    host.answer = Reply(500)
    async with open_process() as runtime:
        await accept(runtime)
        sender = get_sender(runtime)
        begin, last = clock.now(), clock.now()
        for _ in range(64):
            before = len(host.server.requests)
            assert await sender.send_events() == 0
            if len(host.server.requests) > before:
                last = clock.now()
            clock.advance(timedelta(minutes=30))
        async with runtime.store.read_once() as tx:
            assert not await runtime.store.status_events.has_due(tx, clock.now() + timedelta(days=9))
        assert [alert.name for alert in runtime.alerts.list_active()] == ["status_events_lost"]
    assert len(host.server.requests) == 10
    assert len({request.headers["webhook-id"] for request in host.server.requests}) == 1
    assert timedelta(hours=24) <= last - begin <= timedelta(hours=31)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"events_url": "http://shop.example/e", "events_secret": (OLD,)}, r"__EVENTS_URL: must begin with https://"),
        ({"events_url": "https://shop.example/e"}, r"__EVENTS_SECRET: is required with TIDINGS_WEBHOOK__EVENTS_URL"),
        ({"events_url": "https://shop.example/e", "events_secret": ("x",)}, r"__EVENTS_SECRET: must be whsec_"),
    ],
)
def test_c73_settings_of_the_endpoint_are_checked(store: SqlStore, settings: dict[str, Any], message: str) -> None:
    clock = SystemClock()
    with pytest.raises(ConfigError, match=message):
        create_status_event_sender(WebhookSettings(**settings), store, clock, AlertRegistry(clock))
    assert create_status_event_sender(WebhookSettings(), store, clock, AlertRegistry(clock)) is None


class _Now:
    """`datetime` of the verifying library at the time of the test's clock."""

    def __init__(self, clock: FrozenClock) -> None:
        self._clock = clock

    def now(self, tz: object = None) -> object:
        return self._clock.now()

    def __getattr__(self, name: str) -> object:
        import datetime

        return getattr(datetime.datetime, name)
