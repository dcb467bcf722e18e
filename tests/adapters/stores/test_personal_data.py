"""An export contains all stored data of a user, and an erasure deletes it, on both databases.

Tables are discovered in the metadata, including those of packs. A new table with user data fails here until its rows
are exported and erased.
"""

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table, insert, or_, select
from tests.support.asgi_client import ADMIN, USER_SECRET, Client, StoppedClock

from tidings.api.app import create_app
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.model.audience import to_json, users
from tidings.model.ids import new_id
from tidings.model.user import caller_of
from tidings.observability import personal_data
from tidings.ports.pack import Pack
from tidings.ports.transaction import Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import metadata

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = "a wrapping key for tests, long enough"
#: table → column that refers to a user in another way
ELSEWHERE = {
    "users": "id",
    "idempotency_keys": "caller",
    "notifications": "audience",
    "attempts": "delivery_id",
    "stream_epochs": "host_id",
    "stream_settings": "owner",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tidings.db'}"
    url: str = request.getfixturevalue("upgraded_url")
    return url


@pytest.fixture
async def call(database: str, tmp_path: Path) -> AsyncIterator[Client]:
    """Return a function that runs a test body with a client of an application on an empty database."""
    settings = Settings(
        data_dir=tmp_path,
        database=database,
        bootstrap_key=ADMIN,
        user_secret=USER_SECRET,
        secret_key=SECRET,
    )
    clock = StoppedClock()
    async with AppContainer.open(settings, clock=clock) as runtime:
        yield Client(create_app(runtime), runtime, clock)


def personal_tables() -> dict[str, Table]:
    """Return the tables with a user id column, and those known to refer to users otherwise."""
    named = {
        table.name
        for table in metadata.tables.values()
        if any(
            column.name.endswith("user_id") or any(key.target_fullname == "users.id" for key in column.foreign_keys)
            for column in table.columns
        )
    }
    return {name: metadata.tables[name] for name in sorted(named | set(ELSEWHERE))}


def rows_of(user_id: str) -> dict[str, dict[str, object]]:
    """Return one row per table about a user; each contains a unique value that starts with `mark-`."""
    notification, delivery, event = new_id(NOW), new_id(NOW), new_id(NOW)
    waiting, device, digest = new_id(NOW), new_id(NOW), new_id(NOW)
    keys = msgspec.msgpack.encode((f"https://push.example/{user_id}", bytes(65), bytes(16)))
    times = {"created_at": NOW, "updated_at": NOW}
    common_fields = {
        "template_code": "MESSAGE",
        "template_version": 1,
        "category": "MESSAGE",
        "audience": to_json(users(user_id)),
        "priority": "normal",
        "channels": [],
        "send_at": NOW,
        "expires_at": NOW + timedelta(days=1),
        "created_at": NOW,
        "recipients": 1,
        "deliveries": 1,
        "skipped": 1,
    }
    return {
        "users": {"id": user_id, "locale": "en", "timezone": "UTC", "attributes": {"a": "mark-users"}, **times},
        "events": {
            "id": event,
            "title": "Jazz night",
            "description": "",
            "start_date": NOW,
            "status": "ACTIVE",
            "version": 1,
            **times,
        },
        "preferences": {"user_id": user_id, "category": "mark-preferences", "channel": "webpush", "enabled": True},
        "user_schedules": {"user_id": user_id, "timezone": "mark-user_schedules", "updated_at": NOW},
        "contact_points": {
            "id": waiting,
            "user_id": user_id,
            "channel": "email",
            "identity_digest": user_id,
            "address_digest": user_id,
            "sealed": FieldCipher(SECRET).encrypt(msgspec.msgpack.encode(("mark-contact_points", ())), waiting),
            "attributes": {},
            "state": "active",
            "state_changed_at": NOW,
            "created_at": NOW,
            "is_from_profile": False,
            "version": 1,
            "last_seen_at": NOW,
        },
        "device": {
            "id": device,
            "user_id": user_id,
            "channel": "webpush",
            "identity_digest": f"endpoint-{user_id}",
            "host": "push.example",
            "sealed": FieldCipher(SECRET).encrypt(keys, device),
            "key_id": new_id(NOW),
            "label": "mark-device",
            "attributes": {},
            "state": "active",
            "state_changed_at": NOW,
            "created_at": NOW,
            "is_from_profile": False,
            "version": 1,
            "last_seen_at": NOW,
        },
        "notifications": {
            "id": notification,
            **common_fields,
            "variables": {"m": "mark-notifications"},
            "state": "fanned_out",
        },
        "waiting": {"id": waiting, **common_fields, "variables": {"m": "mark-waiting"}, "state": "accepted"},
        "deliveries": {
            "id": delivery,
            "notification_id": notification,
            "user_id": user_id,
            "channel": "webpush",
            "target_id": device,
            "lane": "normal",
            "state": "delivered",
            "rule": "mark-deliveries",
            "due_at": NOW,
            "attempts": 1,
            **times,
        },
        "attempts": {
            "delivery_id": delivery,
            "started_at": NOW,
            "number": 1,
            "outcome": "delivered",
            "why": "mark-attempts",
            "finished_at": NOW,
        },
        "skips": {
            "id": new_id(NOW),
            "notification_id": notification,
            "user_id": user_id,
            "channel": "email",
            "reason": "channel_not_set_up",
            "detail": {"m": "mark-skips"},
            "created_at": NOW,
        },
        "waiting_steps": {
            "notification_id": notification,
            "user_id": user_id,
            "step": 1,
            "channels": ["mark-waiting_steps"],
            "after_seconds": 600,
            "created_at": NOW,
        },
        "awaited_events": {
            "notification_id": notification,
            "event": "mark-awaited_events",
            "user_id": user_id,
            "event_key": f"user {user_id}",
        },
        "user_limits": {
            "user_id": user_id,
            "scope": "mark-user_limits",
            "stamps": [1_795_348_800_000],
            "last_at": NOW,
        },
        "idempotency_keys": {
            "caller": caller_of(user_id),
            "key": "mark-idempotency_keys",
            "request_digest": "d",
            "body": b"",
            "created_at": NOW,
        },
        "inbox_items": {
            "id": new_id(NOW),
            "user_id": user_id,
            "notification_id": notification,
            "category": "MESSAGE",
            "title": "mark-inbox_items",
            "body": "",
            "url": "https://example.org",
            "lang": "en",
            "direction": "ltr",
            "actions": [],
            "priority": "normal",
            "created_at": NOW,
            "state": "active",
            "position": 1,
        },
        "user_topics": {"user_id": user_id, "topic": "mark-user_topics", "created_at": NOW},
        "receipts": {
            "id": delivery,
            "event_digest": f"event-{user_id}",
            "channel": "email",
            "provider": "tidings",
            "cause": "open",
            "user_id": user_id,
            "sealed": FieldCipher(SECRET).encrypt(msgspec.msgpack.encode((None, "mark-receipts")), delivery),
            "occurred_at": NOW,
            "received_at": NOW,
            "repeats": 0,
        },
        "inbox_counters": {"user_id": user_id, "unseen": 41, "unread": 42, "version": 43, "last_position": 1},
        "tickets": {"event_id": event, "user_id": user_id, "status": "active", "created_at": NOW},
        "favourites": {"event_id": event, "user_id": user_id, "host_id": "mark-favourites", "created_at": NOW},
        "stream_epochs": {
            "event_id": event,
            "epoch": 1,
            "started_at": NOW,
            "ended_at": NOW,
            "host_id": user_id,
            "notice": "mark-stream_epochs",
        },
        "stream_settings": {"scope": "host", "owner": user_id, "count_by": "mark-settings"},
        "websocket_tickets": {
            "digest": f"digest-{user_id}",
            "user_id": user_id,
            "authorized_until": NOW,
            "expires_at": NOW + timedelta(seconds=57),
        },
        "digests": {
            "id": digest,
            "user_id": user_id,
            "template_code": "MESSAGE",
            "category": "MESSAGE",
            "rule_id": "rule",
            "key": "mark-digests",
            "opened_at": NOW,
            "closes_at": NOW,
            "state": "closed",
            "item_count": 1,
            "sent_count": 0,
            "closed_at": NOW,
        },
        "digest_items": {
            "notification_id": notification,
            "user_id": user_id,
            "digest_id": digest,
            "accepted_at": NOW + timedelta(seconds=58),
            "state": "digested",
        },
    }


async def fill(runtime: AppContainer, user_id: str) -> dict[str, dict[str, object]]:
    rows = rows_of(user_id)
    async with runtime.store.transaction() as tx:
        for name, row in rows.items():
            table = {"waiting": "notifications", "device": "contact_points"}.get(name, name)
            await connection_of(tx).execute(insert(metadata.tables[table]).values(row))
    return rows


async def count_remaining_rows(
    runtime: AppContainer, rows: dict[str, dict[str, object]], user_id: str
) -> dict[str, int]:
    """Return table → number of rows about a user."""
    counts: dict[str, int] = {}
    async with runtime.store.read_snapshot() as tx:
        for name, table in personal_tables().items():
            if name == "notifications":
                found = await connection_of(tx).execute(select(table.c.audience))
                counts[name] = sum(f'"{user_id}"' in msgspec.json.encode(row.audience).decode() for row in found)
                continue
            column = ELSEWHERE.get(name)
            mine = table.c[column] == rows[name][column] if column else or_(*_users(table, user_id))
            counts[name] = len((await connection_of(tx).execute(select(table).where(mine))).all())
    return counts


def _users(table: Table, user_id: str) -> list[Any]:
    return [column == user_id for column in table.columns if column.name.endswith("user_id")]


def test_every_table_with_user_data_is_covered() -> None:
    assert set(personal_tables()) <= set(rows_of("ana")), (
        "a table stores user data: add a row to rows_of, export it and erase it"
    )


async def test_an_export_shows_a_row_of_each_table(call: Client) -> None:
    rows = await fill(call.runtime, "ana")
    await fill(call.runtime, "ben")
    reply = await call("GET", "/api/users/ana")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    text = reply.body.decode()
    # a ticket consists of ids and timestamps only, counters of numbers
    marks = {name: f"mark-{name}" for name in rows if name not in {"tickets", "events", "inbox_counters"}} | {
        "stream_settings": "mark-settings",
        "websocket_tickets": "2026-11-22T12:00:57Z",
        "digest_items": "2026-11-22T12:00:58Z",
        "inbox_counters": '"inboxCounts":{"unseen":41,"unread":42,"version":43}',
        "tickets": f'{{"eventId":"{rows["tickets"]["event_id"]}","status":"active"',
    }
    assert {name for name, mark in marks.items() if mark not in text} == set()
    assert "ben" not in text
    assert [one["notification"]["variables"] for one in reply.json["deliveries"]] == [{"m": "mark-notifications"}]
    assert reply.json["limits"] == [{"scope": "mark-user_limits", "countedAt": ["2026-11-22T12:00:00Z"]}]
    for secret in ("https://push.example/ana", "endpointDigest", "sealed", "audience"):
        assert secret not in text


async def test_an_erasure_leaves_no_row_in_any_table(call: Client) -> None:
    rows, others = await fill(call.runtime, "ana"), await fill(call.runtime, "ben")
    kept = await count_remaining_rows(call.runtime, others, "ben")
    assert min((await count_remaining_rows(call.runtime, rows, "ana")).values()) > 0
    assert (await call("DELETE", "/api/users/ana")).status == 204
    assert {
        name: count for name, count in (await count_remaining_rows(call.runtime, rows, "ana")).items() if count
    } == {}
    assert await count_remaining_rows(call.runtime, others, "ben") == kept


async def test_a_long_export_is_complete(call: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal_data, "PAGE_SIZE", 2)
    rows = await fill(call.runtime, "ana")
    extra_deliveries = [{**rows["deliveries"], "id": new_id(NOW), "target_id": new_id(NOW)} for _ in range(4)]
    silent = [{**rows["skips"], "id": new_id(NOW), "channel": f"channel-{number}"} for number in range(3)]
    async with call.runtime.store.transaction() as tx:
        await connection_of(tx).execute(insert(metadata.tables["deliveries"]), extra_deliveries)
        await connection_of(tx).execute(insert(metadata.tables["skips"]), silent)
    export = (await call("GET", "/api/users/ana")).json
    assert [row["id"] for row in export["deliveries"]] == [
        rows["deliveries"]["id"],
        *(row["id"] for row in extra_deliveries),
    ]
    assert [one["id"] for one in export["skips"]] == [rows["skips"]["id"], *(one["id"] for one in silent)]


async def test_each_pack_exports_and_erases_its_data(call: Client) -> None:
    shelf = {"ana": ["Ulysses"]}

    async def export(_tx: Transaction, user_id: str) -> dict[str, object]:
        return {"reservations": shelf.get(user_id, [])}

    async def erase(_tx: Transaction, user_id: str) -> None:
        shelf.pop(user_id, None)

    library = Pack("library", export=export, erase=erase)
    call.app = create_app(dataclasses.replace(call.runtime, packs=[*call.runtime.packs, library]))
    await fill(call.runtime, "ana")
    assert (await call("GET", "/api/users/ana")).json["packs"]["library"] == {"reservations": ["Ulysses"]}
    assert (await call("DELETE", "/api/users/ana")).status == 204
    assert shelf == {}
