"""What a thief of the database file must not find in it, and what an erased user must not leave in it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tidings.errors import ConfigError
from tidings.model.audience import users
from tidings.model.delivery import Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.outcome import Delivered
from tidings.model.subscription import VapidKey
from tidings.model.user import Preference, User
from tidings.packs.events import store as events
from tidings.stores.sealing import Sealer
from tidings.stores.sqlite import engines
from tidings.stores.store import SqlStore
from tidings.testing.contracts.audiences_contract import Populate, Population
from tidings.testing.contracts.samples import NOW, a_notification, a_subscription, planned_scene, tried

KEY = VapidKey(new_id(NOW), b"\xd5private-scalar-of-32-bytes-here!", b"\x04" + b"P" * 64, NOW)


async def test_the_file_holds_no_endpoint_and_no_key(store: SqlStore, tmp_path: Path) -> None:
    device = a_subscription("ana", "secret-capability", auth=b"auth-secret-16-b")
    async with store.begin() as tx:
        await store.users.upsert(tx, [User("ana")], NOW)
        await store.subscriptions.register(tx, device, replaces=None, now=NOW)
        await store.vapid_keys.add(tx, KEY)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("tidings.db*"))
    assert device.id.encode() in stored, "the row itself is there"
    for secret in (device.endpoint.encode(), b"secret-capability", device.p256dh, device.auth, KEY.private):
        assert secret not in stored


async def test_another_secret_key_is_told_from_the_right_one(store: SqlStore, tmp_path: Path) -> None:
    async with store.begin() as tx:
        await store.vapid_keys.add(tx, KEY)
    stranger = SqlStore(*engines(tmp_path / "tidings.db"), Sealer("another secret than that"), {})
    async with stranger.read() as tx:
        with pytest.raises(ConfigError, match="TIDINGS_SECRET_KEY"):
            await stranger.vapid_keys.all(tx)
    await stranger.close()


async def test_an_erased_user_is_in_no_table(store: SqlStore, populate: Populate, tmp_path: Path) -> None:
    ana = "user-of-that-name"
    scene = await planned_scene(store, ana, "ben")
    due, _ = await scene.claim(store)
    alone, among = a_notification(users(ana)), a_notification(users("ben", ana) - users(ana))
    tickets = {("event-0", ana): True, ("event-1", "ben"): True}
    hosts = {"event-0": "host", "event-1": "host", "event-2": "host"}
    async with store.begin() as tx:
        await store.deliveries.record(tx, [tried(due, Delivered())], NOW)
        await store.users.set_preferences(tx, ana, [Preference("NEWS", "webpush", True)])
        await populate(store, tx, Population({}, {}, hosts, tickets, frozenset(tickets)))
        for one in (alone, among):
            await store.notifications.add(tx, one)
        planned = among.moved(cursor=ana, recipients=1, deliveries=0, skipped=1, done=True)
        await store.notifications.advance(tx, among, planned)
        await store.deliveries.add(tx, [], [Skipped(among.id, ana, "webpush", SkipReason.NO_DEVICE)], NOW)
    assert set(_tables_with(tmp_path, ana)) == {
        "users", "preferences", "push_subscriptions", "tickets", "favourites", "notifications", "deliveries", "skips"
    }  # fmt: skip
    async with store.begin() as tx:
        assert await store.users.erase(tx, ana)
    assert _tables_with(tmp_path, ana) == {}
    async with store.read() as tx:
        assert (await events.get(tx, "event-0")) is not None


def _tables_with(folder: Path, word: str) -> dict[str, int]:
    """Return how many rows of each table hold the word in any column."""
    found = {}
    with closing(sqlite3.connect(folder / "tidings.db")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            if count := sum(any(word in str(value) for value in row) for row in rows):
                found[table] = count
    return found
