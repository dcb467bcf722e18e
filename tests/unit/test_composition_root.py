"""Everything is connected: each gauge has a reader, each check is called, each setting is read."""

import ast
import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from bullmq import Job as StockJob  # type: ignore[import-untyped]  # ships no types
from bullmq import Queue as StockQueue
from msgspec.structs import replace
from prometheus_client import REGISTRY, Gauge
from tests.support.server import eventually

import tidings
from tidings.api.schemas.notifications import DeliveryResponse
from tidings.channels.throttling.circuit_breaker import DEFAULT_POLICY
from tidings.channels.throttling.server_throttle import Permit
from tidings.channels.throttling.signals import SignalKind
from tidings.channels.webpush.server_keys import get_channel
from tidings.channels.webpush.throttling.host_signals import HostSignal, SendResult
from tidings.config.settings import Role, Settings
from tidings.container import AppContainer, Core
from tidings.errors import ConfigError
from tidings.model.audience import users
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import NotificationState
from tidings.model.outcome import RetryLater
from tidings.model.preference import Preference
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.subscription import VapidKey
from tidings.model.task import Task
from tidings.model.template import Template, TemplateText
from tidings.model.trace import DeliveryTrace
from tidings.model.user import User
from tidings.observability import metrics
from tidings.observability.explain_query import explain_notification
from tidings.ports.clock import SystemClock
from tidings.ports.store import Transaction
from tidings.queues.bullmq_queue import intake_queue_name
from tidings.stores.repositories.vapid_keys import SqlVapidKeys
from tidings.testing.clock import START, FrozenClock
from tidings.testing.contracts.samples import make_subscription
from tidings.worker import start_worker

MESSAGE = NotifyRequest("MESSAGE", users("ana"), {"title": "Hi", "body": "You"})
SOURCES = Path(tidings.__file__).parent


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Any]:
    """The registered gauge callbacks, empty at first."""
    fresh: dict[tuple[str, str], Any] = {}
    monkeypatch.setattr(metrics, "_callbacks", fresh)
    return fresh


async def test_each_gauge_has_a_callback_in_a_worker(tmp_path: Path, readings: dict[tuple[str, str], Any]) -> None:
    gauges = {str(one) for one in vars(metrics).values() if isinstance(one, Gauge)}
    async with AppContainer.open(Settings(data_dir=tmp_path), role=Role.SERVE) as runtime, start_worker(runtime):
        assert {metric for metric, _ in readings} == gauges | {
            str(metrics.CACHE_LOOKUPS),
            str(metrics.PROVIDER_REQUESTS),
        }
        metrics.collect()


async def test_a_push_host_with_an_open_circuit_is_reported(tmp_path: Path, clock: FrozenClock) -> None:
    async with AppContainer.open(Settings(data_dir=tmp_path), clock=clock, role=Role.SERVE) as runtime:
        phone = replace(make_subscription("ana", "phone"), endpoint="https://fcm.googleapis.com/phone")
        host = get_channel(runtime.channels).destination(phone)
        assert host is not None
        expires = START + timedelta(days=1)
        silent = SendResult(RetryLater(START, "it hung"), HostSignal(SignalKind.TIMEOUT))
        for _ in range(DEFAULT_POLICY.failure_threshold):
            ticket = host.acquire("one device", Priority.NORMAL, expires)
            assert isinstance(ticket, Permit)
            host.complete(ticket, silent, Priority.NORMAL, expires)
        metrics.collect()
        assert REGISTRY.get_sample_value("tidings_breakers_open", {"target": host.name}) == 1


async def test_a_limit_for_a_misspelt_category_is_refused_at_startup(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, category_limits=("MESSAGE=5", "MESAGE=3"))
    with pytest.raises(ConfigError, match=r"TIDINGS_CATEGORY_LIMITS: no category 'MESAGE'; did you mean 'MESSAGE'\?"):
        async with AppContainer.open(settings):
            raise AssertionError("it opened")
    with pytest.raises(ConfigError, match=r"TIDINGS_CATEGORY_LIMITS: no category 'ÄÖÜ'; known are .*MESSAGE"):
        Core.build(settings.model_copy(update={"category_limits": ("ÄÖÜ=1",)}), FrozenClock())


@pytest.mark.parametrize(
    ("default", "problem"),
    [
        ("MESAGE=off", r"no category 'MESAGE'; did you mean 'MESSAGE'\?"),
        ("*:emial=off", r"no channel 'emial'; did you mean 'email'\?"),
    ],
)
def test_a_preference_default_with_a_wrong_name_is_refused_at_startup(
    tmp_path: Path, default: str, problem: str
) -> None:
    settings = Settings(data_dir=tmp_path, preference_defaults=("MESSAGE=on", default))
    with pytest.raises(ConfigError, match=f"TIDINGS_PREFERENCE_DEFAULTS: {problem}"):
        Core.build(settings, FrozenClock())


def test_a_preference_default_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TIDINGS_PREFERENCE_DEFAULTS.* is not CATEGORY=off"):
        Settings.load(folder=SOURCES, environ={"TIDINGS_PREFERENCE_DEFAULTS": "MESSAGE=maybe"})


async def test_c20_a_preference_default_decides_for_who_has_not_chosen(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, preference_defaults=("*:webpush=off",))
    async with AppContainer.open(settings, clock=FrozenClock()) as runtime:
        async with runtime.store.transaction() as tx:
            await runtime.store.users.upsert(tx, [User("ana"), User("ben")], runtime.clock.now())
            await runtime.store.users.set_preferences(tx, "ben", [Preference("", "webpush", True)])
        request = NotifyRequest("MESSAGE", users("ana", "ben"), {"title": "Hi", "body": "There"}, channels=("webpush",))
        async with runtime.store.read_snapshot() as tx:
            shown = (await runtime.pipeline.dry_run(tx, request)).shown
        reasons = {user_id: [one.reason for one in recipient.decisions] for user_id, recipient in shown.items()}
        assert reasons == {"ana": [SkipReason.NOT_OPTED_IN], "ben": [SkipReason.NO_DEVICE]}


@pytest.mark.parametrize("limit", ["10001", "1" * 5000])
def test_a_limit_that_is_too_high_is_refused(limit: str) -> None:
    with pytest.raises(ConfigError, match=r"TIDINGS_CATEGORY_LIMITS.*MESSAGE=1.* is more than 10000"):
        Settings.load(folder=SOURCES, environ={"TIDINGS_CATEGORY_LIMITS": f"MESSAGE={limit}"})


@pytest.mark.parametrize("limit", ["-1", "1.5", "²", "", "many"])
def test_a_limit_that_is_no_number_is_refused(limit: str) -> None:
    with pytest.raises(ConfigError, match=r"TIDINGS_CATEGORY_LIMITS.* is not CATEGORY=number"):
        Settings.load(folder=SOURCES, environ={"TIDINGS_CATEGORY_LIMITS": f"MESSAGE={limit}"})


def test_each_setting_is_read_where_it_changes_something() -> None:
    own = SOURCES / "config" / "settings.py"
    elsewhere = {name for file in SOURCES.rglob("*.py") if file != own for name in _read_of_settings(file)}
    # fields that a property of the settings reads
    for name, fields in _properties(own).items():
        if name in elsewhere:
            elsewhere |= fields
    assert set(Settings.model_fields) - elsewhere == set()


def _read_of_settings(file: Path) -> Iterator[str]:
    """Yield the attributes read from an object named `settings`: `settings.host`, `runtime.settings.host`."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="settings") | ast.Attribute(attr="settings"), attr=name):
                yield name


def _properties(file: Path) -> dict[str, set[str]]:
    """Return property of the settings → fields that it reads."""
    return {
        node.name: {
            one.attr
            for one in ast.walk(node)
            if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self"
        }
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list)
    }


async def test_on_sqlite_a_cancellation_waits_for_no_other_process(tmp_path: Path, clock: FrozenClock) -> None:
    async with AppContainer.open(Settings(data_dir=tmp_path), clock=clock, role=Role.SERVE) as runtime:
        store, pipeline = runtime.store, runtime.pipeline
        pipeline.has_local_consumer = True
        await _with_a_phone(runtime, "ana")
        notification = await pipeline.submit(MESSAGE)
        planned: list[Task] = []
        await pipeline.fan_out.plan_next_pages([notification.id], planned.extend)
        async with store.transaction() as tx:
            in_flight = await store.deliveries.claim(
                tx,
                [task.ref for task in planned],
                token=new_id(clock.now()),
                now=clock.now(),
                lease_until=clock.now() + timedelta(minutes=1),
            )
        assert len(in_flight) == 1
        before = store.statement_count
        await pipeline.cancel(notification.id)
        # the notification, its two counts, the cancellation, what it awaits, its tasks; no query is repeated
        assert store.statement_count - before == 6
        async with store.read_snapshot() as tx:
            assert await store.deliveries.has_leased(tx, notification.id)
            cancelled = await store.notifications.get(tx, notification.id)
        assert cancelled is not None
        assert cancelled.state is NotificationState.CANCELLED


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_a_render_failure_names_template_and_variable(
    tmp_path: Path, database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"database": request.getfixturevalue("postgres_url")} if database == "postgresql" else {}
    settings = Settings(data_dir=tmp_path, **where)
    async with AppContainer.open(settings, role=Role.SERVE) as runtime:
        await _with_a_phone(runtime, "ana")
        notification = await runtime.pipeline.submit(MESSAGE)
        # another release of the pack with the same version number is installed before the send
        template = runtime.catalog.get_template("MESSAGE")
        words = {"en": TemplateText("{{ title }}", "{{ body }} {{ signature }}")}
        monkeypatch.setitem(
            cast("dict[tuple[str, int], Template]", runtime.catalog.versions),
            ("MESSAGE", template.version),
            dataclasses.replace(template, texts=words),
        )
        async with start_worker(runtime):

            async def is_skipped() -> DeliveryTrace | None:
                async with runtime.store.read_snapshot() as tx:
                    found = await runtime.store.deliveries.list_with_attempts(
                        tx, notification.id, user_id=None, after=None, limit=9
                    )
                return found[0] if found and found[0].state is DeliveryState.SKIPPED else None

            trace = await eventually(is_skipped)
        error = "variables: template MESSAGE needs signature"
        assert (trace.why, trace.detail) == ("render_failed", {"template": "MESSAGE", "error": error})
        now = runtime.clock.now()
        why = await explain_notification(
            runtime.store, runtime.catalog, user_id="ana", notification_id=notification.id, now=now
        )
        assert f"the template could not be rendered ({error})" in " ".join(why.sentences)
        assert DeliveryResponse.model_validate(trace).detail == trace.detail


async def test_processes_that_start_together_create_one_vapid_key(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, database=postgres_url, secret_key="a secret for the tests")
    # the schema must not delay them
    engine = Core.build(settings, SystemClock())
    await engine.ensure_schema()
    await engine.close()
    together = asyncio.Barrier(2)
    has_looked = ContextVar("has_looked", default=False)
    look = SqlVapidKeys.list_all

    async def list_then_wait(self: SqlVapidKeys, tx: Transaction) -> Sequence[VapidKey]:
        found = await look(self, tx)
        if not has_looked.get():
            has_looked.set(True)
            # both processes continue without having found a key
            assert found == []
            await together.wait()
        return found

    async def start() -> Sequence[VapidKey]:
        async with AppContainer.open(settings) as runtime, runtime.store.read_snapshot() as tx:
            assert (
                get_channel(runtime.channels).key_ring.public_key()[1]
                in get_channel(runtime.channels).key_ring.active_ids
            )
            return await runtime.store.vapid_keys.list_all(tx)

    monkeypatch.setattr(SqlVapidKeys, "list_all", list_then_wait)
    async with asyncio.timeout(60):
        first, second = await asyncio.gather(start(), start())
    assert first == second
    assert len(first) == 1


async def test_a_job_for_a_channel_that_the_server_does_not_have_fails(tmp_path: Path, redis_url: str) -> None:
    settings = Settings(data_dir=tmp_path, redis=redis_url)
    queue = StockQueue(intake_queue_name(settings.queue_prefix), {"connection": redis_url})
    async with AppContainer.open(settings, role=Role.SERVE) as runtime, AsyncExitStack() as stack:
        stack.push_async_callback(queue.close)
        await _with_a_phone(runtime, "ana")
        data = {"to": "ana@example.org", "userId": "ana", "subject": "Your order", "text": "It is on its way."}
        added = await queue.add("SEND_EMAIL", data, {})

        async def has_ended() -> StockJob | None:
            job = await StockJob.fromId(queue, added.id)
            return job if job is not None and job.finishedOn else None

        async with start_worker(runtime):
            job = await eventually(has_ended, within=30)
        assert await queue.getJobState(added.id) == "failed"
        assert job.failedReason.startswith("name: SEND_EMAIL needs the channel email, which is not configured")
        async with runtime.store.read_snapshot() as tx:
            assert await runtime.store.notifications.list_page(tx, before=None, limit=9) == []


async def _with_a_phone(runtime: AppContainer, user_id: str) -> None:
    now = runtime.clock.now()
    async with runtime.store.transaction() as tx:
        await runtime.store.users.upsert(tx, [User(user_id)], now)
        await runtime.store.subscriptions.register(tx, make_subscription(user_id, "phone"), replaces=None, now=now)
