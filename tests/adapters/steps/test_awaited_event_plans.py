"""The statements on awaited events find their rows by an index, as SQLite plans them without statistics."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import event

from tidings.model.awaited_event import ANY_USER, AwaitedEvent
from tidings.model.user import User
from tidings.stores.store import SqlStore
from tidings.testing.contracts.samples import NOW, make_notification

GROWING = ("awaited_events", "notifications", "digest_items", "users", "waiting_steps")


async def run_all(store: SqlStore) -> None:
    """Execute each statement of the repository."""
    notification = make_notification()
    pair = (notification.id, "ana")
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana")], NOW)
        await store.notifications.add_many(tx, [notification])
        await store.awaited_events.add(tx, [AwaitedEvent(notification.id, "paid", None, ANY_USER)])
        await store.steps.cancel_by_event(tx, "paid", NOW, subject="order:4", user_id="ana")
        assert await store.awaited_events.find_occurred(tx, [pair]) == {pair: {"paid": NOW}}
        assert await store.awaited_events.list_by_user(tx, "ana", after=(notification.id, "p"), limit=9)
        await store.awaited_events.remove(tx, [pair])
        await store.awaited_events.remove_planned(tx, [notification.id])


def explain(path: Path, executed: list[tuple[str, Any]], *, at_least: int) -> list[str]:
    """Return the steps of SQLite for the statements on awaited events, of which there are some."""
    statements = [one for one in executed if "awaited_events" in one[0] and not isinstance(one[1], list)]
    assert len(statements) >= at_least
    with closing(sqlite3.connect(path)) as database:
        return [
            step
            for sql, parameters in statements
            for *_, step in database.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        ]


def is_scan(step: str) -> bool:
    return step.startswith("SCAN") and step.split()[1] in GROWING


async def test_no_statement_scans_a_growing_table(store: SqlStore, tmp_path: Path) -> None:
    executed: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool) -> None:
        executed.append((sql, parameters))

    event.listen(store._writer.sync_engine, "before_cursor_execute", record)
    await run_all(store)
    steps = explain(tmp_path / "tidings.db", executed, at_least=7)
    assert [step for step in steps if is_scan(step)] == []
    executed.clear()
    async with store.transaction() as tx:
        assert await store.awaited_events.list_stale(tx, limit=9) == []
        assert await store.awaited_events.remove_stale(tx, [(make_notification().id, "paid", "")]) == 0
    [scan] = [step for step in explain(tmp_path / "tidings.db", executed, at_least=2) if is_scan(step)]
    assert scan.startswith("SCAN awaited_events"), "maintenance searches them all, and the others by an index"
    assert any("ix_awaited_events_key (event=? AND event_key=?)" in step for step in steps), steps
