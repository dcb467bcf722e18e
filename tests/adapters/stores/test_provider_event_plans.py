"""The statements on receipts and suppressions find their rows by an index, as SQLite plans them without statistics."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event

from tidings.model.receipt import EventCause
from tidings.model.suppression import BOUNCE_REASONS, SuppressionFilter
from tidings.model.user import User
from tidings.stores.repositories.suppressions import load_of_targets
from tidings.stores.store import SqlStore
from tidings.testing.contracts.provider_events_contract import make_event, make_suppression
from tidings.testing.contracts.samples import NOW

GROWING = ("receipts", "suppressions", "contact_points", "deliveries", "attempts")


async def run_all(store: SqlStore) -> None:
    """Execute each statement of the two repositories that an event, a claim or a list needs."""
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana", email="ana@example.org")], NOW)
        [point] = await store.contact_points.list_by_user(tx, "ana")
        suppression = await store.suppressions.add(tx, make_suppression())
        await load_of_targets(tx, [point.id])
        await store.suppressions.get(tx, suppression.id)
        for selected in (SuppressionFilter("email", "ana@example.org"), SuppressionFilter("email")):
            await store.suppressions.page(tx, selected, before=suppression.id, limit=9, now=NOW)
        await store.suppressions.list_of_user(tx, "ana")
        await store.suppressions.lift_matching(
            tx, "email", "ana@example.org", BOUNCE_REASONS, observed_before=NOW, senders=None, reason="x", now=NOW
        )
        for _ in range(2):
            await store.receipts.add(tx, make_event(delivery_id=suppression.id), NOW)
        await store.receipts.list_of_message(tx, make_event(delivery_id=suppression.id))
        since = NOW - timedelta(days=14)
        await store.receipts.list_of_address(tx, "email", "ana@example.org", since=since, limit=9)
        await store.receipts.page(tx, channel="email", cause=None, before=suppression.id, limit=9)
        await store.receipts.page(tx, channel=None, cause=EventCause.REVIEW, before=suppression.id, limit=9)
        await store.receipts.list_of_user(tx, "ana")
        await store.receipts.purge(tx, NOW)
        await store.contact_points.mark_gone(tx, "email", "ana@example.org", NOW)
        await store.users.erase(tx, "ana")


async def test_no_statement_scans_a_growing_table(store: SqlStore, tmp_path: Path) -> None:
    executed: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool) -> None:
        executed.append((sql, parameters))

    event.listen(store._writer.sync_engine, "before_cursor_execute", record)
    await run_all(store)
    statements = [one for one in executed if any(table in one[0] for table in ("receipts", "suppressions"))]
    assert len(statements) > 15
    with closing(sqlite3.connect(tmp_path / "tidings.db")) as database:
        scans = [
            (sql, step)
            for sql, parameters in statements
            if not isinstance(parameters, list)
            for *_, step in database.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            if step.startswith("SCAN") and step.split()[1] in GROWING
        ]
    assert scans == []
