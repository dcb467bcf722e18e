"""Recurring notifications in the store: each time is acted upon once, each run is finished by one worker."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from tidings.model.audience import everyone, saved, timezones
from tidings.model.ids import new_id
from tidings.model.recurring import RecurringNotification, RecurringRun, RunState
from tidings.model.user import User
from tidings.model.user_schedule import UserSchedule
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WEEKLY = RecurringNotification(
    name="weekly",
    template_code="MESSAGE",
    audience=saved("customers"),
    at=("MON 09:00", "LAST 18:00"),
    timezone="Europe/Berlin",
    variables={"title": "Your week", "limits": [1, None]},
    options={"priority": "low", "digest": False},
    variables_url="https://shop.example/week",
    catch_up=timedelta(hours=2),
    description="What happened",
    next_run_at=NOW,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> SqlStore:
    store: SqlStore = request.getfixturevalue("store" if request.param == "sqlite" else "postgres_store")
    return store


async def put(store: SqlStore, recurring: RecurringNotification) -> RecurringNotification:
    async with store.transaction() as tx:
        await store.recurring.put(tx, recurring, NOW)
        stored = await store.recurring.get(tx, recurring.name)
    assert stored is not None
    return stored


def make_run(recurring: RecurringNotification = WEEKLY, **fields: object) -> RecurringRun:
    run = RecurringRun(new_id(NOW), recurring.name, NOW, NOW + 10 * MINUTE)
    return replace(run, **fields)  # type: ignore[arg-type]  # the fields of a run


async def test_a_definition_is_stored_as_it_is_replaced_and_deleted_with_its_runs(any_store: SqlStore) -> None:
    stored = await put(any_store, WEEKLY)
    assert stored == replace(WEEKLY, created_at=NOW, updated_at=NOW)
    other = replace(stored, timezone=None, at=("09:00",), variables_url=None, variables_function="week", catch_up=None)
    async with any_store.transaction() as tx:
        assert not await any_store.recurring.put(tx, other, NOW + MINUTE)
        assert await any_store.recurring.put(tx, replace(WEEKLY, name="zero"), NOW)
        page = await any_store.recurring.page(tx, after=None, limit=10)
        assert page[0] == replace(other, updated_at=NOW + MINUTE)
        assert [one.name for one in await any_store.recurring.page(tx, after="weekly", limit=10)] == ["zero"]
        run = make_run(timezones=("Europe/Berlin", ""))
        await any_store.recurring.add_runs(tx, [run])
        assert await any_store.recurring.get_run(tx, "zero", run.id) is None
        assert await any_store.recurring.get_run(tx, "weekly", run.id) == replace(run, due_at=NOW)
        assert await any_store.recurring.delete(tx, "weekly")
        assert not await any_store.recurring.delete(tx, "weekly")
        assert await any_store.recurring.list_runs(tx, "weekly", before=None, limit=10) == []


async def test_c15_a_time_is_advanced_by_one_process(any_store: SqlStore) -> None:
    stored = await put(any_store, WEEKLY)
    async with any_store.transaction() as tx:
        assert not await any_store.recurring.has_due(tx, NOW - MINUTE)
        assert await any_store.recurring.has_due(tx, NOW)
        assert await any_store.recurring.list_due(tx, NOW, 10) == [stored]
        changed = replace(stored, updated_at=NOW - MINUTE)
        assert not await any_store.recurring.advance(tx, changed, NOW + MINUTE)
        assert await any_store.recurring.advance(tx, stored, NOW + MINUTE)
        assert not await any_store.recurring.advance(tx, stored, NOW + MINUTE)
        assert await any_store.recurring.list_due(tx, NOW, 10) == []
    await put(any_store, replace(WEEKLY, next_run_at=None, is_paused=True))
    async with any_store.transaction() as tx:
        assert not await any_store.recurring.has_due(tx, NOW + MINUTE)


async def test_c15_a_run_is_finished_by_the_last_worker_that_claimed_it(any_store: SqlStore) -> None:
    await put(any_store, replace(WEEKLY, next_run_at=None))
    late, early = make_run(), make_run(scheduled_at=NOW - MINUTE)
    async with any_store.transaction() as tx:
        await any_store.recurring.add_runs(tx, [late, early])
        assert await any_store.recurring.has_due(tx, NOW)

    async def claim(now: datetime) -> list[RecurringRun]:
        async with any_store.transaction() as tx:
            return list(await any_store.recurring.claim_runs(tx, now, hidden_until=now + MINUTE, limit=10))

    first = await claim(NOW)
    assert [(run.id, run.attempts) for run in first] == [(early.id, 1), (late.id, 1)]
    assert await claim(NOW) == []
    second = await claim(NOW + MINUTE)
    other = new_id(NOW)
    async with any_store.transaction() as tx:
        store = any_store.recurring
        assert not await store.finish_run(tx, first[0], RunState.ACCEPTED, NOW, notification_id=other)
        assert not await store.defer_run(tx, first[0], NOW, "late")
        assert await store.defer_run(tx, second[1], NOW + 2 * MINUTE, "x" * 400)
        assert await store.finish_run(tx, second[0], RunState.ACCEPTED, NOW, notification_id=other)
        assert not await store.finish_run(tx, second[0], RunState.FAILED, NOW, reason="again")
        assert await store.cancel_runs(tx, "weekly", "paused", NOW) == 1
        newest, oldest = await store.list_runs(tx, "weekly", before=None, limit=10)
        assert (newest.id, newest.state, newest.notification_id) == (early.id, RunState.ACCEPTED, other)
        assert (oldest.state, oldest.reason, oldest.finished_at) == (RunState.CANCELLED, "paused", NOW)
        assert [run.id for run in await store.list_runs(tx, "weekly", before=early.id, limit=10)] == [late.id]
        assert not await store.has_due(tx, NOW + 10 * MINUTE)
        assert await store.purge_runs(tx, NOW) == 0
        assert await store.purge_runs(tx, NOW + MINUTE) == 2


async def test_c15_users_are_found_by_the_zone_of_their_schedule_or_else_of_their_profile(any_store: SqlStore) -> None:
    people = {
        "ana": "Europe/Berlin",
        "ben": "UTC",
        "cleo": "Asia/Tokyo",
        "dan": "UTC",
        "eva": "Europe/Berlin",
    }
    async with any_store.transaction() as tx:
        assert await any_store.user_schedules.list_timezones(tx) == []
        await any_store.users.upsert(tx, [User(name, timezone=zone) for name, zone in people.items()], NOW)
        await any_store.user_schedules.set(tx, "ben", UserSchedule("America/Lima"), NOW)
        await any_store.user_schedules.set(tx, "cleo", UserSchedule("UTC"), NOW)
        await any_store.user_schedules.set(tx, "eva", UserSchedule(digest_at="08:00"), NOW)
        zones = await any_store.user_schedules.list_timezones(tx)
        assert zones == ["", "America/Lima", "Asia/Tokyo", "Europe/Berlin", "UTC"]

        async def find(*names: str) -> list[str]:
            audience = everyone() & timezones(*names)
            page = await any_store.audiences.page(tx, audience, category="MESSAGE", after=None, limit=10)
            return [recipient.user_id for recipient in page]

        assert await find("Europe/Berlin") == ["ana", "eva"]
        assert await find("") == ["dan"]
        assert await find("UTC", "America/Lima") == ["ben", "cleo"]
        assert await find("Asia/Tokyo") == []


_FILL = """INSERT INTO recurring_runs
    (id, name, scheduled_at, deadline, is_manual, state, attempts, due_at, finished_at)
    SELECT gen_random_uuid(), CASE WHEN n % 100 = 0 THEN 'weekly' ELSE 'other' END, day, day, false,
        CASE WHEN n < 5 THEN 'pending' ELSE 'accepted' END, 1, day, CASE WHEN n < 5 THEN NULL ELSE now() END
    FROM generate_series(1, 20000) AS n, LATERAL (SELECT now() + n * interval '1 minute' AS day)"""


async def test_c15_few_due_runs_are_found_in_a_long_history(postgres_store: SqlStore) -> None:
    for name in ("weekly", "other"):
        await put(postgres_store, replace(WEEKLY, name=name))
    executed: list[tuple[str, Any]] = []
    plans: dict[str, str] = {}
    cases: dict[str, Callable[[Transaction], Awaitable[object]]] = {
        "ix_recurring_runs_due": lambda tx: postgres_store.recurring.claim_runs(tx, NOW, hidden_until=NOW, limit=9),
        "ix_recurring_runs_name": lambda tx: postgres_store.recurring.list_runs(tx, "weekly", before=None, limit=9),
        "ix_recurring_runs_finished": lambda tx: postgres_store.recurring.purge_runs(tx, NOW),
        "runs_due": lambda tx: postgres_store.recurring.has_due(tx, NOW),
    }

    def record(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: object) -> None:
        executed.append((sql, parameters))

    async with postgres_store._writer.connect() as connection:
        await connection.begin()
        tx = await postgres_store.adopt(connection)
        await connection.exec_driver_sql(_FILL)
        await connection.exec_driver_sql("ANALYZE recurring_runs")
        event.listen(postgres_store._writer.sync_engine, "before_cursor_execute", record)
        for index, work in cases.items():
            executed.clear()
            await work(tx)
            [(sql, parameters), *_] = executed
            plans[index] = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {sql}", parameters)).scalars())
        event.remove(postgres_store._writer.sync_engine, "before_cursor_execute", record)
        await connection.rollback()
    for index, plan in plans.items():
        assert index in plan, plan
        assert "Seq Scan on recurring_runs" not in plan, plan
