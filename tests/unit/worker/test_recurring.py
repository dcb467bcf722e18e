"""A worker makes the runs of recurring notifications as their times come; the example of the how-to is one of them."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from tidings import container
from tidings.channels.webhook import generate_secret
from tidings.channels.webhook.signing import parse_secret, sign_message
from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.model.audience import everyone, users
from tidings.model.recurring import RecurringNotification, RecurringRun, RunState
from tidings.model.request import NotifyRequest
from tidings.model.user import User
from tidings.packs.discovery import load_packs
from tidings.schemas.json_body import parse_body
from tidings.schemas.recurring import RecurringBody, to_recurring
from tidings.testing.clock import FrozenClock
from tidings.testing.polling import eventually
from tidings.worker import start_worker

#: a minute before nine o'clock in Berlin, on a Monday
START = datetime(2026, 11, 23, 7, 59, tzinfo=UTC)
PAGE = Path(__file__).parents[3] / "docs" / "howto" / "recurring.md"
BLOCKS = dict(re.findall(r"```(json|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[::-1])
[RECEIVER] = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
WEEK = timedelta(days=7)


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AppContainer]:
    """A container with the pack of the how-to."""
    names: dict[str, Any] = {}
    exec(compile(BLOCKS["python"], PAGE.name, "exec"), names)
    monkeypatch.setattr(container, "load_packs", lambda: [*load_packs(), names["pack"]])
    settings = Settings(data_dir=tmp_path).with_channel_values({"TIDINGS_WEBHOOK__EVENTS_SECRET": generate_secret()})
    async with AppContainer.open(settings, clock=FrozenClock(START), role=Role.SERVE) as opened:
        async with opened.store.transaction() as tx:
            await opened.store.users.upsert(tx, [User("ana", timezone="Europe/Berlin")], START)
        yield opened


async def put(runtime: AppContainer, recurring: RecurringNotification) -> None:
    await runtime.recurring.put(recurring)


async def wait_for_run(runtime: AppContainer, name: str, number: int) -> RecurringRun:
    """Return the newest of a number of runs that have ended."""

    async def find() -> RecurringRun | None:
        async with runtime.store.read_snapshot() as tx:
            runs = await runtime.store.recurring.list_runs(tx, name, before=None, limit=10)
        return runs[0] if len(runs) == number and runs[0].finished_at is not None else None

    return await eventually(find)


async def test_c15_a_worker_makes_a_run_when_its_time_comes(runtime: AppContainer) -> None:
    daily = RecurringNotification("daily", "MESSAGE", everyone(), ("09:00",), None, {"title": "Hi", "body": "There"})
    await put(runtime, daily)
    labels = {"state": "accepted"}
    before = REGISTRY.get_sample_value("tidings_recurring_runs_total", labels) or 0
    async with start_worker(runtime):
        assert isinstance(runtime.clock, FrozenClock)
        runtime.clock.advance(60)
        run = await wait_for_run(runtime, "daily", 1)
    assert (run.state, run.scheduled_at) == (RunState.ACCEPTED, START + timedelta(minutes=1))
    assert run.timezones == ("Europe/Berlin",)
    assert REGISTRY.get_sample_value("tidings_recurring_runs_total", labels) == before + 1


async def test_c15_the_function_of_the_how_to_says_what_to_send_or_that_there_is_nothing(runtime: AppContainer) -> None:
    weekly = RecurringNotification("new", "MESSAGE", everyone(), ("MON 09:00",), "Europe/Berlin", {"title": "Week"})
    await put(runtime, replace(weekly, variables_function="new_users"))
    assert isinstance(runtime.clock, FrozenClock)
    runtime.clock.advance(60)
    while await runtime.recurring_runner.run_due():
        pass
    assert (await wait_for_run(runtime, "new", 1)).state is RunState.EMPTY
    runtime.clock.advance(WEEK - timedelta(hours=1))
    await runtime.pipeline.submit(NotifyRequest("USER_WELCOME", users("ana"), {"userName": "Ana"}))
    runtime.clock.advance(timedelta(hours=1))
    while await runtime.recurring_runner.run_due():
        pass
    run = await wait_for_run(runtime, "new", 2)
    assert run.notification_id is not None
    async with runtime.store.read_snapshot() as tx:
        accepted = await runtime.store.notifications.get(tx, run.notification_id)
    assert accepted is not None
    assert accepted.variables == {"title": "Week", "body": "New users: 1"}


def test_c15_the_receiver_of_the_how_to_answers_what_is_signed() -> None:
    names: dict[str, Any] = {}
    exec(compile(RECEIVER, PAGE.name, "exec"), names)
    secret, body = generate_secret(), b'{"data": {"scheduledAt": "2026-11-23T08:00:00Z"}}'
    headers = sign_message([parse_secret(generate_secret()), parse_secret(secret)], "run", datetime.now(UTC), body)
    status, answered = names["answer"](headers, body, secret)
    assert (status, msgspec.json.decode(answered)) == (
        200,
        {"variables": {"body": "Your week until 2026-11-23T08:00:00Z"}},
    )
    assert names["answer"](headers, body + b" ", secret) == (401, b"")
    assert names["answer"]({**headers, "webhook-timestamp": "1"}, body, secret) == (401, b"")


async def test_c15_the_definition_of_the_how_to_is_accepted(runtime: AppContainer) -> None:
    body = parse_body(BLOCKS["json"].encode(), RecurringBody)
    await put(runtime, to_recurring("weekly-summary", body))
    async with runtime.store.read_snapshot() as tx:
        stored = await runtime.recurring.get(tx, "weekly-summary")
    assert (stored.timezone, stored.variables_url) == (None, msgspec.json.decode(BLOCKS["json"])["variablesUrl"])
