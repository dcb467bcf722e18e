"""Data at rest: a stolen database file reveals no endpoints or keys, and an erased user leaves no data."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tidings.errors import ConfigError
from tidings.model.audience import users
from tidings.model.delivery import SkipReason, SkipRecord
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted
from tidings.model.preference import Preference
from tidings.model.subscription import VapidKey
from tidings.model.user import User
from tidings.packs.events import repository as events
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.contracts.audiences_contract import Populate, Population
from tidings.testing.contracts.provider_events_contract import make_event, make_suppression
from tidings.testing.contracts.samples import (
    NOW,
    create_planned_notification,
    make_attempt_result,
    make_notification,
    make_subscription,
)

KEY = VapidKey(new_id(NOW), b"\xd5private-scalar-of-32-bytes-here!", b"\x04" + b"P" * 64, NOW)


async def test_the_file_holds_no_endpoint_and_no_key(store: SqlStore, tmp_path: Path) -> None:
    device = make_subscription("ana", "secret-capability", auth=b"auth-secret-16-b")
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana")], NOW)
        await store.subscriptions.register(tx, device, replaces=None, now=NOW)
        await store.vapid_keys.add(tx, KEY)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("tidings.db*"))
    assert device.id.encode() in stored, "the row itself is there"
    for secret in (device.endpoint.encode(), b"secret-capability", device.p256dh, device.auth, KEY.private):
        assert secret not in stored


async def test_the_file_holds_no_address_of_a_suppression_or_an_event(store: SqlStore, tmp_path: Path) -> None:
    async with store.transaction() as tx:
        added = await store.suppressions.add(tx, make_suppression(address="Secret.Person@example.org"))
        text = "550 <secret.person@example.org> unknown"
        await store.receipts.add(tx, make_event(recipient="secret.person@example.org", detail=text), NOW)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("tidings.db*"))
    assert added.id.encode() in stored, "the row itself is there"
    assert b"secret.person" not in stored.lower()


async def test_a_wrong_secret_key_is_detected(store: SqlStore, tmp_path: Path) -> None:
    async with store.transaction() as tx:
        await store.vapid_keys.add(tx, KEY)
    store_with_wrong_key = SqlStore(
        *create_engines(tmp_path / "tidings.db"), FieldCipher("another secret than that"), {}
    )
    async with store_with_wrong_key.read_snapshot() as tx:
        with pytest.raises(ConfigError, match="TIDINGS_SECRET_KEY"):
            await store_with_wrong_key.vapid_keys.list_all(tx)
    await store_with_wrong_key.close()


async def test_an_erased_user_is_in_no_table(store: SqlStore, populate: Populate, tmp_path: Path) -> None:
    ana = "user-of-that-name"
    scene = await create_planned_notification(store, ana, "ben")
    due, _ = await scene.claim(store)
    alone, among = make_notification(users(ana)), make_notification(users("ben", ana) - users(ana))
    tickets = {("event-0", ana): True, ("event-1", "ben"): True}
    hosts = {"event-0": "host", "event-1": "host", "event-2": "host"}
    async with store.transaction() as tx:
        await store.deliveries.record(tx, [make_attempt_result(due, Accepted())], NOW)
        await store.users.set_preferences(tx, ana, [Preference("NEWS", "webpush", True)])
        await populate(store, tx, Population({}, {}, hosts, tickets, frozenset(tickets)))
        for one in (alone, among):
            await store.notifications.add_many(tx, [one])
        planned = among.with_progress(cursor=ana, recipients=1, deliveries=0, skipped=1, is_complete=True)
        await store.notifications.compare_and_set_progress_many(tx, [(among, planned)])
        await store.deliveries.add(tx, [], [SkipRecord(among.id, ana, "webpush", SkipReason.NO_DEVICE)], NOW)
    assert set(_count_rows_containing(tmp_path, ana)) == {
        "users", "preferences", "contact_points", "tickets", "favourites", "notifications", "deliveries", "skips"
    }  # fmt: skip
    async with store.transaction() as tx:
        assert await store.users.erase(tx, ana)
    assert _count_rows_containing(tmp_path, ana) == {}
    async with store.read_snapshot() as tx:
        assert (await events.get(tx, "event-0")) is not None


def _count_rows_containing(folder: Path, word: str) -> dict[str, int]:
    """Return table → number of rows that contain the word in any column."""
    found = {}
    with closing(sqlite3.connect(folder / "tidings.db")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            if count := sum(any(word in str(value) for value in row) for row in rows):
                found[table] = count
    return found
