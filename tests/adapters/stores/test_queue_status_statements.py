"""The SQL statements of `GET /api/queues`: a few over the outbox, none over deliveries.

Counting deliveries has overloaded other systems at seven times their usual volume.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tidings.api.routes.queues import load_queues
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.model.audience import users
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.user import User

#: tables that grow with the number of recipients
RECIPIENT_TABLES = ("deliveries", "notifications", "attempts", "skips", "subscriptions")


@pytest.fixture(params=["sqlite", "postgresql"])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AppContainer]:
    where = {} if request.param == "sqlite" else {"database": request.getfixturevalue("postgres_url")}
    async with AppContainer.open(Settings(data_dir=tmp_path, secret_key="a secret for the tests", **where)) as opened:
        yield opened


@contextmanager
def statements() -> Iterator[list[str]]:
    """Record every statement that is executed in the block."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_no_delivery_is_counted(runtime: AppContainer) -> None:
    words = {"title": "Hi", "body": "You"}
    async with runtime.store.transaction() as tx:
        await runtime.store.users.upsert(tx, [User("ana")], runtime.clock.now())
    later = runtime.clock.now() + timedelta(hours=1)
    for priority in (Priority.LOW, Priority.LOW, Priority.URGENT):
        request = NotifyRequest("MESSAGE", users("ana"), words, priority=priority, send_at=later)
        await runtime.pipeline.submit(request)
    with statements() as seen:
        shown = await load_queues(runtime)
    assert [(lane.lane.value, lane.delayed) for lane in shown.lanes] == [
        ("urgent", 1),
        ("high", 0),
        ("normal", 0),
        ("low", 2),
    ]
    statements_run = [one for one in seen if one.lstrip().upper().startswith(("SELECT", "WITH"))]
    assert 1 <= len(statements_run) <= 3, statements_run
    for one in statements_run:
        assert "outbox" in one
        assert [table for table in RECIPIENT_TABLES if table in one] == []
        # counts cover a bounded number of rows
        assert "count(" not in one.lower() or "LIMIT" in one, one
