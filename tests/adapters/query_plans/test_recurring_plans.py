"""The queries of recurring notifications use their indexes at a million rows, on each database."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from tests.support.bulk_rows import NOW, row_id

from tidings.model.audience import everyone
from tidings.model.recurring import RecurringNotification
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore

if TYPE_CHECKING:
    from tests.adapters.query_plans.conftest import FilledStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

Work = Callable[[SqlStore, Transaction], Awaitable[object]]
DAILY = RecurringNotification("daily", "MESSAGE", everyone(), ("09:00",), "UTC", next_run_at=NOW)
#: what is done, and the indexes that find its rows
CASES: list[tuple[str, Work, set[str]]] = [
    ("due", lambda store, tx: store.recurring.has_due(tx, NOW), {"ix_recurring_due", "ix_recurring_runs_due"}),
    ("list due", lambda store, tx: store.recurring.list_due(tx, NOW, 10), {"ix_recurring_due"}),
    (
        "claim",
        lambda store, tx: store.recurring.claim_runs(tx, NOW, hidden_until=NOW, limit=10),
        {"ix_recurring_runs_due"},
    ),
    (
        "history",
        lambda store, tx: store.recurring.list_runs(tx, "daily", before=row_id(0, 9), limit=50),
        {"ix_recurring_runs_name"},
    ),
    ("purge", lambda store, tx: store.recurring.purge_runs(tx, NOW), {"ix_recurring_runs_finished"}),
    (
        "zones",
        lambda store, tx: store.user_schedules.list_timezones(tx),
        {"ix_users_timezone", "ix_user_schedules_timezone"},
    ),
]


@pytest.mark.parametrize(("work", "indexes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_c15_an_index_finds_what_is_due_on_sqlite(million: "FilledStore", work: Work, indexes: set[str]) -> None:
    steps = [step for statement in await million.explain_work(work) for step in statement.steps]
    for index in indexes:
        assert any(f"USING INDEX {index}" in step or f"USING COVERING INDEX {index}" in step for step in steps), steps
    assert not [step for step in steps if step.startswith(("SCAN users", "SCAN user_schedules", "SCAN recurring"))]


async def test_c15_zones_are_found_without_reading_every_user_on_postgresql(million_in_weeks: "FilledStore") -> None:
    statements = await million_in_weeks.explain_work(lambda store, tx: store.user_schedules.list_timezones(tx))
    steps = [step for statement in statements for step in statement.steps]
    assert any("ix_users_timezone" in step for step in steps), steps
    assert not [step for step in steps if step.startswith("SCAN users") and "INDEX" not in step]
