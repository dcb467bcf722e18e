"""What `GET /api/queues` asks the database: a few statements over the outbox, and none over what was sent (M20).

Counting deliveries took others down at seven times their usual volume (facts: reliability).
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tidings.api.queues import queues_shown
from tidings.model.audience import users
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.user import User
from tidings.runtime import Runtime
from tidings.settings import Settings

#: what grows with the number of recipients
LEDGER = ("deliveries", "notifications", "attempts", "skips", "subscriptions")


@pytest.fixture(params=["sqlite", "postgresql"])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runtime]:
    where = {} if request.param == "sqlite" else {"database": request.getfixturevalue("postgres_url")}
    async with Runtime.open(Settings(data_dir=tmp_path, secret_key="a secret for the tests", **where)) as opened:
        yield opened


@contextmanager
def statements() -> Iterator[list[str]]:
    """Note every statement that is executed in the block."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_no_delivery_is_counted(runtime: Runtime) -> None:
    words = {"title": "Hi", "body": "You"}
    async with runtime.store.begin() as tx:
        await runtime.store.users.upsert(tx, [User("ana")], runtime.clock.now())
    later = runtime.clock.now() + timedelta(hours=1)
    for priority in (Priority.LOW, Priority.LOW, Priority.URGENT):
        asked = NotifyRequest("MESSAGE", users("ana"), words, priority=priority, send_at=later)
        await runtime.pipeline.submit(asked)
    with statements() as seen:
        shown = await queues_shown(runtime)
    assert [(lane.lane.value, lane.delayed) for lane in shown.lanes] == [
        ("urgent", 1),
        ("high", 0),
        ("normal", 0),
        ("low", 2),
    ]
    asked_for = [one for one in seen if one.lstrip().upper().startswith(("SELECT", "WITH"))]
    assert 1 <= len(asked_for) <= 3, asked_for
    for one in asked_for:
        assert "outbox" in one
        assert [table for table in LEDGER if table in one] == []
        # what is counted, is counted over a bounded number of rows
        assert "count(" not in one.lower() or "LIMIT" in one, one
