"""Runs of recurring notifications: each occurrence makes one notification, whoever stops, repeats or fails."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.conftest import NEWS, FakeChannel, Process

from tidings.errors import BackendError, ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.flow.recurring.runner import HIDDEN_FOR, RecurringRunner
from tidings.flow.recurring.variables import VariableResolver
from tidings.model.alert import AlertName
from tidings.model.audience import Audience, everyone, saved, users
from tidings.model.notification import Notification
from tidings.model.recurring import (
    NothingToSend,
    RecurringNotification,
    RecurringRun,
    ResolvedVariables,
    RunState,
    SourceFailed,
    SourceRequest,
    SourceResult,
)
from tidings.model.saved_audience import SavedAudience
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.pack_context import PackServices
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import run_concurrently

#: a Monday
NINE = datetime(2026, 11, 23, 8, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class FakeEndpoints:
    """Endpoints whose answer a test chooses."""

    def __init__(self) -> None:
        self.requests: list[SourceRequest] = []
        self.answer: Callable[[SourceRequest], Awaitable[SourceResult]] | SourceResult = ResolvedVariables({})

    def check_url(self, url: str, field: str) -> None:
        """Accepts every URL."""

    async def fetch(self, _url: str, request: SourceRequest) -> SourceResult:
        self.requests.append(request)
        return await self.answer(request) if callable(self.answer) else self.answer

    async def close(self) -> None:
        """Closes nothing."""


class World:
    """Several workers on one database, at 8:59 in Berlin on a Monday."""

    def __init__(self, store: SqlStore, clock: FrozenClock) -> None:
        self.store = store
        self.clock = clock
        self.endpoints = FakeEndpoints()
        self.ended: list[RunState] = []
        self.catalog = Catalog.from_packs([core.pack, NEWS], channels=("webpush",), known_channels=("webpush",))
        self.process = Process(store, clock, self.catalog, FakeChannel())
        services = PackServices(store, self.process.pipeline, clock)
        self.resolver = VariableResolver(self.catalog, services, self.endpoints)
        self.runners = [self.create_runner() for _ in range(3)]

    def create_runner(self, accept: Callable[..., Awaitable[Notification]] | None = None) -> RecurringRunner:
        return RecurringRunner(
            self.store,
            self.clock,
            accept or self.process.pipeline.accept,
            self.resolver,
            self.process.alerts,
            default_timezone="UTC",
            on_finished=self.ended.append,
            jitter=lambda: 0.0,
        )

    async def put(self, name: str = "daily", **fields: object) -> None:
        """Store a daily notification at 9:00, unless told otherwise, as of now."""
        recurring = RecurringNotification(
            name, "NEWS", everyone(), ("09:00",), "Europe/Berlin", {"title": "Today", "body": "News"}
        )
        recurring = replace(recurring, **fields)  # type: ignore[arg-type]  # fields of the definition
        now = self.clock.now()
        next_run_at = await self.runners[0].find_next_run(recurring, now)
        async with self.store.transaction() as tx:
            await self.store.recurring.put(tx, replace(recurring, next_run_at=next_run_at), now)

    async def run_due(self, runner: RecurringRunner | None = None) -> None:
        while await (runner or self.runners[0]).run_due():
            pass

    async def list_runs(self, name: str = "daily") -> Sequence[RecurringRun]:
        """Return the runs, oldest first."""
        async with self.store.read_snapshot() as tx:
            return list(reversed(await self.store.recurring.list_runs(tx, name, before=None, limit=100)))

    async def list_accepted(self) -> Sequence[Notification]:
        """Return the accepted notifications, oldest first."""
        async with self.store.read_snapshot() as tx:
            return list(reversed(await self.store.notifications.list_page(tx, before=None, limit=100)))

    def list_alerts(self, name: AlertName = AlertName.RECURRING_RUN_LOST) -> Sequence[str]:
        """Return the ids of the runs that alerts of a name are about."""
        return [alert.subject.split()[-1] for alert in self.process.alerts.list_active() if alert.name is name]


@pytest.fixture
async def world(any_store: SqlStore) -> World:
    world = World(any_store, FrozenClock(NINE - MINUTE))
    async with any_store.transaction() as tx:
        people = {"ana": "Europe/Berlin", "ben": "America/New_York", "cleo": "UTC"}
        await any_store.users.upsert(tx, [User(name, timezone=zone) for name, zone in people.items()], NINE)
    return world


async def test_c15_a_time_makes_one_notification_with_the_audience_of_that_moment(world: World) -> None:
    await world.put(audience=saved("vip"), options={"priority": "low", "expiresAfterSeconds": 600})
    await world.run_due()
    assert await world.list_runs() == []
    async with world.store.transaction() as tx:
        await world.store.saved_audiences.put(tx, SavedAudience("vip", users("ben")), NINE)
    world.clock.advance(MINUTE)
    await world.run_due()
    [accepted], [run] = await world.list_accepted(), await world.list_runs()
    assert (accepted.audience, accepted.source, accepted.priority) == (users("ben"), "recurring:daily", "low")
    assert accepted.expires_at == NINE + 10 * MINUTE
    assert (run.state, run.notification_id, run.scheduled_at) == (RunState.ACCEPTED, accepted.id, NINE)
    assert (run.attempts, run.timezones, world.ended) == (1, None, [RunState.ACCEPTED])
    world.clock.advance(DAY)
    await world.run_due()
    assert [one.scheduled_at for one in await world.list_runs()] == [NINE, NINE + DAY]


async def test_c15_many_processes_make_each_run_once(world: World) -> None:
    for number in range(4):
        await world.put(f"daily-{number}")
    for _ in range(3):
        world.clock.advance(DAY)
        await run_concurrently(world.store, *(world.run_due(runner) for runner in world.runners))
    runs = [run for number in range(4) for run in await world.list_runs(f"daily-{number}")]
    assert [run.state for run in runs] == [RunState.ACCEPTED] * 12
    ids = [run.notification_id for run in runs]
    assert sorted(ids, key=str) == [one.id for one in await world.list_accepted()]


async def test_c15_after_downtime_there_is_at_most_one_run(world: World) -> None:
    await world.put()
    await world.put("short", catch_up=HOUR)
    world.clock.advance(5 * DAY + 3 * HOUR)
    await world.run_due()
    [run] = await world.list_runs()
    assert (run.scheduled_at, run.state) == (NINE + 5 * DAY, RunState.ACCEPTED)
    [missed] = await world.list_runs("short")
    assert (missed.scheduled_at, missed.state) == (NINE + 5 * DAY, RunState.MISSED)
    assert missed.reason == "no worker ran within its catch-up"
    assert len(await world.list_accepted()) == 1
    assert world.list_alerts() == [missed.id]


async def test_c15_each_user_gets_it_when_their_own_clock_shows_the_time(world: World) -> None:
    await world.put(timezone=None)
    by_hour: dict[int, Audience] = {}
    for hour in range(8):
        before = len(await world.list_accepted())
        world.clock.advance(HOUR)
        await world.run_due()
        for notification in (await world.list_accepted())[before:]:
            async with world.store.read_snapshot() as tx:
                page = await world.store.audiences.page(
                    tx, notification.audience, category="NEWS", after=None, limit=10
                )
            by_hour[hour] = users(*(recipient.user_id for recipient in page))
    # Berlin is an hour before UTC, which stands for no zone, and New York is five hours after
    assert by_hour == {0: users("ana"), 1: users("cleo"), 6: users("ben")}
    assert [run.timezones for run in await world.list_runs()] == [("Europe/Berlin",), ("",), ("America/New_York",)]


async def test_c15_a_failing_source_is_asked_again_within_the_catch_up(world: World) -> None:
    await world.put(variables_url="https://shop.example", catch_up=10 * MINUTE)
    world.endpoints.answer = SourceFailed("the endpoint answered 500, not 200 or 204")
    world.clock.advance(MINUTE)
    await world.run_due()
    [run] = await world.list_runs()
    assert (run.state, run.attempts, run.reason) == (RunState.PENDING, 1, "the endpoint answered 500, not 200 or 204")
    for _ in range(9):
        world.clock.advance(MINUTE)
        await world.run_due()
    [run] = await world.list_runs()
    assert (run.state, run.reason) == (RunState.FAILED, "the endpoint answered 500, not 200 or 204")
    # after half a minute, and then each time after twice as long
    assert run.attempts == len(world.endpoints.requests) == 5
    assert {request.run_id for request in world.endpoints.requests} == {run.id}
    assert world.list_alerts() == [run.id]
    world.endpoints.answer = ResolvedVariables({"body": "At last"})
    world.clock.advance(DAY - 9 * MINUTE)
    await world.run_due()
    [accepted] = await world.list_accepted()
    assert accepted.variables == {"title": "Today", "body": "At last"}
    # the success of a later run does not make up for it
    assert world.list_alerts() == [run.id]


async def test_c15_nothing_to_send_and_nobody_to_send_to_are_recorded(world: World) -> None:
    await world.put(variables_url="https://shop.example")
    await world.put("nobody", audience=~everyone())
    world.endpoints.answer = NothingToSend()
    world.clock.advance(MINUTE)
    await world.run_due()
    [run], [nobody] = await world.list_runs(), await world.list_runs("nobody")
    assert (run.state, run.reason) == (RunState.EMPTY, "its source had nothing to send")
    assert (nobody.state, nobody.reason) == (RunState.EMPTY, "nobody was in its audience")
    assert await world.list_accepted() == []
    assert world.list_alerts() == []


async def test_c15_what_cannot_be_accepted_is_tried_again(world: World) -> None:
    await world.put(variables_url="https://shop.example", audience=saved("vip"), variables={"title": "Today"})
    world.clock.advance(MINUTE)
    await world.run_due()
    [run] = await world.list_runs()
    assert (run.state, run.attempts) == (RunState.PENDING, 1)
    assert "no saved audience 'vip'" in str(run.reason)
    async with world.store.transaction() as tx:
        await world.store.saved_audiences.put(tx, SavedAudience("vip", users("ben")), NINE)
    world.clock.advance(MINUTE)
    await world.run_due()
    [run] = await world.list_runs()
    assert "variables.body: is missing" in str(run.reason)
    world.endpoints.answer = ResolvedVariables({"body": "Here"})
    world.clock.advance(HOUR)
    await world.run_due()
    assert [one.state for one in await world.list_runs()] == [RunState.ACCEPTED]


@pytest.mark.parametrize("is_committed", [False, True])
async def test_c15_a_worker_that_dies_neither_loses_nor_repeats_a_run(world: World, is_committed: bool) -> None:
    await world.put()

    async def accept_and_fail(tx: object, request: object) -> Notification:
        accepted = await world.process.pipeline.accept(tx, request)  # type: ignore[arg-type]  # passed on
        if not is_committed:
            raise BackendError("killed before the commit")
        return accepted

    dying = world.create_runner(accept_and_fail)
    world.clock.advance(MINUTE)
    if is_committed:
        await world.run_due(dying)
    else:
        with pytest.raises(BackendError):
            await world.run_due(dying)
    await world.run_due()
    # it is hidden while the worker that claimed it may be alive
    assert len(await world.list_accepted()) == is_committed
    world.clock.advance(HIDDEN_FOR)
    await world.run_due()
    [run], [accepted] = await world.list_runs(), await world.list_accepted()
    assert (run.state, run.notification_id) == (RunState.ACCEPTED, accepted.id)


async def test_c15_a_worker_that_is_slow_loses_the_run_to_the_next(world: World) -> None:
    await world.put(variables_url="https://shop.example")
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(_request: SourceRequest) -> SourceResult:
        is_first = not is_asked.is_set()
        is_asked.set()
        if is_first:
            await may_answer.wait()
        return ResolvedVariables({"body": "first" if is_first else "second"})

    world.endpoints.answer = answer
    world.clock.advance(MINUTE)
    slow = asyncio.create_task(world.run_due(world.runners[1]))
    await is_asked.wait()
    world.clock.advance(HIDDEN_FOR)
    await world.run_due()
    may_answer.set()
    await slow
    [accepted], [run] = await world.list_accepted(), await world.list_runs()
    assert (accepted.variables["body"], run.notification_id, run.attempts) == ("second", accepted.id, 2)
    assert world.ended == [RunState.ACCEPTED]


async def test_c15_a_run_that_is_cancelled_or_deleted_meanwhile_sends_nothing(world: World) -> None:
    await world.put(variables_url="https://shop.example")
    await world.put("gone", variables_url="https://shop.example")

    async def answer(request: SourceRequest) -> SourceResult:
        async with world.store.transaction() as tx:
            if request.name == "gone":
                await world.store.recurring.delete(tx, "gone")
            else:
                await world.store.recurring.cancel_runs(tx, request.name, "it was paused", NINE)
        return ResolvedVariables({})

    world.endpoints.answer = answer
    world.clock.advance(MINUTE)
    await world.run_due()
    [run] = await world.list_runs()
    assert (run.state, await world.list_accepted(), await world.list_runs("gone")) == (RunState.CANCELLED, [], [])


async def _return_week(request: SourceRequest, services: PackServices) -> Mapping[str, object] | None:
    async with services.store.read_snapshot() as tx:
        missing = await services.store.users.missing_ids(tx, ["ana"])
    return {"body": f"{request.name} {request.scheduled_at:%H:%M} {missing}"}


async def _return_nothing(_request: SourceRequest, _services: PackServices) -> None:
    return None


async def _raise(_request: SourceRequest, _services: PackServices) -> Mapping[str, object]:
    raise ValidationFailed("no orders")


async def _return_list(_request: SourceRequest, _services: PackServices) -> Mapping[str, object]:
    return [1]  # type: ignore[return-value]  # the mistake of a pack


@pytest.mark.parametrize(
    ("function", "state", "reason"),
    [
        (_return_week, RunState.ACCEPTED, None),
        (_return_nothing, RunState.EMPTY, "its source had nothing to send"),
        (_raise, RunState.PENDING, "the function week raised ValidationFailed: no orders"),
        (_return_list, RunState.PENDING, "the function week raised TypeError: "),
        (None, RunState.PENDING, "no installed pack has the function 'week'"),
    ],
)
async def test_c15_variables_come_from_a_function_of_a_pack(
    store: SqlStore, function: Callable[..., Awaitable[Mapping[str, object]]] | None, state: RunState, reason: str
) -> None:
    world = World(store, FrozenClock(NINE - MINUTE))
    await world.process.add_users("ana")
    functions = {} if function is None else {"week": function}
    world.resolver._catalog = replace(world.catalog, variable_functions=functions)
    await world.put(variables_function="week")
    world.clock.advance(MINUTE)
    await world.run_due()
    [run] = await world.list_runs()
    assert run.state is state
    assert run.reason == reason or str(run.reason).startswith(reason)
    if state is RunState.ACCEPTED:
        [accepted] = await world.list_accepted()
        assert accepted.variables == {"title": "Today", "body": "daily 08:00 []"}
