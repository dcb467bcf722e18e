"""Migrations of filled databases: upgrades keep all rows, downgrades remove only what their step added."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, LargeBinary, MetaData, Row, String, Table, bindparam, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tidings.packs.events.tables import events
from tidings.stores.engine.postgres import create_engines as postgres_engines
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.schema import migrate
from tidings.stores.schema.provider_tables import suppressions
from tidings.stores.schema.tables import (
    Instant,
    attempts,
    contact_points,
    deliveries,
    idempotency_keys,
    metadata,
    notifications,
    preferences,
    skips,
    user_limits,
    users,
)
from tidings.stores.sql.ids import Id

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
#: ids of 1970, in the default partition, and of the day of the test
OLD, NEW = "00000000-0000-7000-8000-000000000001", "01a20320-a200-7000-8000-000000000001"
#: columns added by the newest migration
NEW_COLUMNS = {
    "users": {"country", "latitude", "longitude"},
    "events": {"timezone"},
    "attempts": {"provider", "message_id", "parts"},
    "deliveries": {"crashes", "detail", "held_by"},
    "preferences": {"subject", "condition"},
    "notifications": {
        "subject",
        "subject_version",
        "subject_state",
        "subject_previous_state",
        "superseded_by",
        "superseded_unsent",
        "plan",
        "collected",
        "digest_id",
    },
}
#: tables added by the newest migration
NEW_TABLES = {
    *("user_topics", "audiences"),
    "quotas",
    *("digests", "digest_items"),
    *("user_limits", "processes", "schedules", "alerts", "contact_points"),
    *("inbox_items", "inbox_counters", "inbox_recalls"),
    *("contact_point_health", "status_events"),
    *("waiting_steps", "awaited_events"),
    *("recurring_notifications", "recurring_runs"),
    *("stream_settings", "stream_epochs", "websocket_tickets"),
    *("receipts", "suppressions", "provider_activity"),
    "user_schedules",
}
#: the former table of devices, as it was created; and where its columns are now
push_subscriptions = Table(
    "push_subscriptions",
    MetaData(),
    Column("id", Id),
    *(Column(name, String) for name in ("user_id", "endpoint_digest", "host")),
    Column("sealed", LargeBinary),
    Column("vapid_key_id", Id),
    *(Column(name, String) for name in ("device", "state")),
    *(Column(name, Instant) for name in ("state_changed_at", "created_at")),
)
MOVED = {"endpoint_digest": "identity_digest", "vapid_key_id": "key_id", "device": "label"}


@pytest.fixture(params=["sqlite", "postgresql"])
async def filled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncConnection]:
    """A database of the previous schema, with rows."""
    if request.param == "sqlite":
        writer, reader = create_engines(tmp_path / "tidings.db")
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


async def test_rows_survive_an_upgrade_and_a_downgrade(filled: AsyncConnection) -> None:
    before = await _rows(filled)
    assert {name: len(rows) for name, rows in before.items() if rows} == {
        "users": 1,
        "preferences": 2,
        "push_subscriptions": 1,
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
    assert (await filled.scalars(select(deliveries.c.detail))).all() == [None, None]
    assert (await filled.scalars(select(contact_points.c.version))).all() == [1]
    # a stored device counts as seen at the upgrade, so that it is not suspended before it could visit
    [seen_at] = (await filled.scalars(select(contact_points.c.last_seen_at))).all()
    assert abs(datetime.now(UTC) - seen_at) < timedelta(minutes=5)
    await filled.execute(insert(user_limits).values(user_id="ana", scope="", stamps=[1, 2], last_at=NOW))
    await filled.commit()
    await filled.run_sync(migrate.downgrade, "0002")
    assert await _rows(filled) == before


async def test_a_downgrade_keeps_only_the_preferences_that_the_previous_version_can_read(
    filled: AsyncConnection,
) -> None:
    await filled.run_sync(migrate.upgrade)
    condition = {"variable": "amount", "operator": "gt", "value": 5}
    new: list[dict[str, object]] = [
        {"subject": "event:9"},
        {"channel": ""},
        {"category": ""},
        {"category": "PRICES", "enabled": True, "condition": condition},
    ]
    entries = [{"subject": "", "condition": None} | _preference("email", False) | one for one in new]
    await filled.execute(insert(preferences), entries)
    await filled.commit()
    assert (await filled.scalars(select(preferences.c.condition).where(preferences.c.category == "PRICES"))).all() == [
        condition
    ]
    await filled.rollback()
    await filled.run_sync(migrate.downgrade, "0019")
    kept = select(preferences.c.category, preferences.c.channel, preferences.c.enabled).order_by(preferences.c.channel)
    assert (await filled.execute(kept)).all() == [("NEWS", "email", True), ("NEWS", "webpush", False)]


async def test_an_upgrade_leaves_no_partial_state_for_writers(filled: AsyncConnection) -> None:
    await filled.run_sync(migrate.upgrade)
    async with filled.begin():
        later = OLD[:-1] + "9"
        await filled.execute(insert(notifications), [_notification(later)])
        await filled.execute(insert(deliveries), [_delivery(later, later)])
        await filled.execute(insert(idempotency_keys), [_answer("k" * 250)])
    assert (await filled.scalars(select(deliveries.c.crashes))).all() == [0, 0, 0]


async def _fill(connection: AsyncConnection) -> None:
    user_id = {"id": "ana", "locale": "en", "timezone": "UTC", "attributes": {"a": [1]}}
    event = {"id": NEW, "title": "Jazz", "description": "", "start_date": NOW, "status": "ACTIVE", "version": 1}
    created_at = {"created_at": NOW, "updated_at": NOW}
    await connection.execute(insert(users), [user_id | created_at])
    await connection.execute(insert(preferences), [_preference("email", True), _preference("webpush", False)])
    await connection.execute(insert(push_subscriptions), [_device()])
    await connection.execute(insert(events), [event | created_at])
    await connection.execute(insert(notifications), [_notification(one) for one in (OLD, NEW)])
    await connection.execute(insert(deliveries), [_delivery(one, one) for one in (OLD, NEW)])
    await connection.execute(insert(attempts), [_attempt(one) for one in (OLD, NEW)])
    await connection.execute(insert(skips), [_skip(one) for one in (OLD, NEW)])
    await connection.execute(insert(idempotency_keys), [_answer("caller")])


async def _rows(connection: AsyncConnection) -> dict[str, Sequence[Row[Any]]]:
    """Return the rows of each table, in the columns of the previous schema."""
    former = [contact_points.c[MOVED.get(column.name, column.name)] for column in push_subscriptions.c]
    devices = select(*former).where(contact_points.c.channel == "webpush")
    if "contact_points" not in await connection.run_sync(lambda at: inspect(at).get_table_names()):
        devices = select(push_subscriptions)
    found = {"push_subscriptions": (await connection.execute(devices)).all()}
    for table in metadata.sorted_tables:
        if table.name in NEW_TABLES:
            continue
        columns = [column for column in table.c if column.name not in NEW_COLUMNS.get(table.name, ())]
        key = [column for column in columns if column.primary_key]
        found[table.name] = (await connection.execute(select(*columns).order_by(*key))).all()
    await connection.rollback()
    return found


def _preference(channel: str, enabled: bool) -> dict[str, object]:
    return {"user_id": "ana", "category": "NEWS", "channel": channel, "enabled": enabled}


def _device() -> dict[str, object]:
    return {
        "id": NEW,
        "user_id": "ana",
        "endpoint_digest": "digest",
        "host": "push.example",
        "sealed": b"sealed",
        "vapid_key_id": NEW,
        "state": "active",
        "state_changed_at": NOW,
        "created_at": NOW,
    }


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


def _attempt(delivery_id: str) -> dict[str, object]:
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


async def test_opt_outs_of_the_previous_version_become_suppressions(filled: AsyncConnection) -> None:
    await filled.run_sync(migrate.upgrade)
    await filled.run_sync(migrate.downgrade, "0013")
    columns = "id, user_id, channel, identity_digest, address_digest, sealed, attributes, state"
    more = "state_changed_at, created_at, is_from_profile, version, last_seen_at"
    for number, state in enumerate(("suppressed", "suppressed", "gone")):
        values = {"id": f"{OLD[:-1]}{number + 2}", "digest": f"d{number}", "state": state, "at": NOW}
        await filled.execute(
            text(
                f"""INSERT INTO contact_points ({columns}, {more}) VALUES
                (:id, 'ana', 'sms', :digest, 'number', '\\x00', '{{}}', :state, :at, :at, false, 1, :at)"""
            ).bindparams(bindparam("id", type_=Id), bindparam("at", type_=Instant)),
            values,
        )
    await filled.commit()
    await filled.run_sync(migrate.upgrade)
    stored = select(suppressions.c.address_digest, suppressions.c.reason, suppressions.c.created_at)
    assert (await filled.execute(stored)).all() == [("number", "provider_opt_out", NOW)]
    of_sms = select(contact_points.c.state).where(contact_points.c.channel == "sms").order_by(contact_points.c.id)
    assert (await filled.scalars(of_sms)).all() == ["active", "active", "gone"]
    await filled.rollback()
    await filled.run_sync(migrate.downgrade, "0013")
    assert (await filled.scalars(of_sms)).all() == ["suppressed", "suppressed", "gone"]
