"""Rows survive the way up; the way down takes only what its own step brought. On each database."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tidings.packs.events.tables import events
from tidings.stores import migrate
from tidings.stores.postgres import engines as postgres_engines
from tidings.stores.schema import (
    attempts,
    deliveries,
    idempotency_keys,
    metadata,
    notifications,
    skips,
    user_limits,
    users,
)
from tidings.stores.sqlite import engines

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
#: one of each: of 1970 and so in the default partition, and of the day of the test
OLD, NEW = "00000000-0000-7000-8000-000000000001", "01a20320-a200-7000-8000-000000000001"
#: columns that the schema before did not have
YOUNG = {"deliveries": {"crashes"}}
#: tables that it did not have
YOUNG_TABLES = {"user_limits", "processes", "schedules"}


@pytest.fixture(params=["sqlite", "postgresql"])
async def filled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncConnection]:
    """A database of the schema before this one, with rows."""
    if request.param == "sqlite":
        writer, reader = engines(tmp_path / "tidings.db")
    else:
        writer, reader = postgres_engines(request.getfixturevalue("postgres_url"), pool_size=2)
    async with writer.connect() as connection:
        await connection.run_sync(migrate.upgrade, NOW)
        await connection.run_sync(migrate.downgrade, "0002")
        async with connection.begin():
            await _fill(connection)
        yield connection
    await reader.dispose()
    await writer.dispose()


async def test_rows_survive_the_way_up_and_down(filled: AsyncConnection) -> None:
    before = await _rows(filled)
    assert {name: len(rows) for name, rows in before.items() if rows} == {
        "users": 1,
        "notifications": 2,
        "deliveries": 2,
        "skips": 2,
        "attempts": 2,
        "idempotency_keys": 1,
        "events": 1,
    }
    await filled.run_sync(migrate.upgrade)
    assert await _rows(filled) == before
    assert (await filled.scalars(select(deliveries.c.crashes))).all() == [0, 0]
    await filled.execute(insert(user_limits).values(user_id="ana", scope="", stamps=[1, 2], last_at=NOW))
    await filled.commit()
    await filled.run_sync(migrate.downgrade, "0002")
    assert await _rows(filled) == before


async def test_a_step_up_leaves_nothing_half_done_for_writers(filled: AsyncConnection) -> None:
    await filled.run_sync(migrate.upgrade)
    async with filled.begin():
        later = OLD[:-1] + "9"
        await filled.execute(insert(notifications), [_notification(later)])
        await filled.execute(insert(deliveries), [_delivery(later, later)])
        await filled.execute(insert(idempotency_keys), [_answer("k" * 250)])
    assert (await filled.scalars(select(deliveries.c.crashes))).all() == [0, 0, 0]


async def _fill(connection: AsyncConnection) -> None:
    person = {"id": "ana", "locale": "en", "timezone": "UTC", "attributes": {"a": [1]}}
    event = {"id": NEW, "title": "Jazz", "description": "", "start_date": NOW, "status": "ACTIVE", "version": 1}
    made = {"created_at": NOW, "updated_at": NOW}
    await connection.execute(insert(users), [person | made])
    await connection.execute(insert(events), [event | made])
    await connection.execute(insert(notifications), [_notification(one) for one in (OLD, NEW)])
    await connection.execute(insert(deliveries), [_delivery(one, one) for one in (OLD, NEW)])
    await connection.execute(insert(attempts), [_try(one) for one in (OLD, NEW)])
    await connection.execute(insert(skips), [_skip(one) for one in (OLD, NEW)])
    await connection.execute(insert(idempotency_keys), [_answer("caller")])


async def _rows(connection: AsyncConnection) -> dict[str, Sequence[Row[Any]]]:
    found = {}
    for table in metadata.sorted_tables:
        if table.name in YOUNG_TABLES:
            continue
        columns = [column for column in table.c if column.name not in YOUNG.get(table.name, ())]
        found[table.name] = (await connection.execute(select(*columns).order_by(*table.primary_key.columns))).all()
    await connection.rollback()
    return found


def _notification(notification_id: str) -> dict[str, object]:
    return {
        "id": notification_id,
        "template_code": "NEWS",
        "template_version": 1,
        "category": "NEWS",
        "audience": {"kind": "users", "userIds": ["ana"]},
        "variables": {"title": "Grüße"},
        "priority": "high",
        "channels": ["webpush"],
        "send_at": NOW,
        "expires_at": NOW,
        "created_at": NOW,
        "state": "fanned_out",
        "recipients": 1,
        "deliveries": 1,
        "skipped": 0,
    }


def _delivery(delivery_id: str, notification_id: str) -> dict[str, object]:
    return {
        "id": delivery_id,
        "notification_id": notification_id,
        "user_id": "ana",
        "channel": "webpush",
        "target_id": OLD,
        "lane": "high",
        "state": "refused",
        "rule": "on by default",
        "due_at": NOW,
        "attempts": 1,
        "created_at": NOW,
        "updated_at": NOW,
    }


def _try(delivery_id: str) -> dict[str, object]:
    return {
        "delivery_id": delivery_id,
        "started_at": NOW,
        "number": 1,
        "outcome": "refused",
        "why": "no",
        "status": 400,
        "finished_at": NOW,
    }


def _skip(notification_id: str) -> dict[str, object]:
    return {
        "id": notification_id,
        "notification_id": notification_id,
        "user_id": "ana",
        "channel": "email",
        "reason": "no_device",
        "detail": {},
        "created_at": NOW,
    }


def _answer(caller: str) -> dict[str, object]:
    return {"caller": caller, "key": "k", "request_digest": "d", "status": 202, "body": b"{}", "created_at": NOW}
