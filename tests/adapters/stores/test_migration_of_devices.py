"""Devices become contact points and back, in filled databases; processes of the previous version continue."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.model.contact_point import ContactPoint, ContactPointState
from tidings.model.ids import new_id
from tidings.model.subscription import PushSubscription, SubscriptionState, TargetChange
from tidings.model.user import User
from tidings.ports.store import RegistrationResult
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines as postgres_engines
from tidings.stores.engine.sqlite import create_engines
from tidings.stores.schema import migrate
from tidings.stores.store import SqlStore
from tidings.testing.clock import START
from tidings.testing.contracts.samples import make_subscription

LATER = START + timedelta(days=3)
#: statements of the previous version on the table of devices, on PostgreSQL
PREVIOUS = {
    "register": """INSERT INTO push_subscriptions (id, user_id, endpoint_digest, host, sealed, vapid_key_id, device,
            state, state_changed_at, created_at, last_seen_at, refusals, refused_for)
        SELECT :id, user_id, :digest, host, sealed, vapid_key_id, 'New', 'active', now(), now(), now(), 0, NULL
        FROM push_subscriptions WHERE id = :from ON CONFLICT (endpoint_digest) DO NOTHING""",
    "lock": "SELECT id, version FROM push_subscriptions WHERE id = :id ORDER BY id FOR UPDATE",
    "overwrite": """UPDATE push_subscriptions SET device = 'Newer', last_seen_at = now(), version = version + 1
        WHERE id = :id RETURNING version""",
    "mark": """UPDATE push_subscriptions SET state = 'gone', state_changed_at = now()
        FROM (VALUES (CAST(:id AS uuid), 2)) AS rows(id, version)
        WHERE push_subscriptions.id = rows.id AND push_subscriptions.version = rows.version""",
    "purge": "DELETE FROM push_subscriptions WHERE state = 'gone'",
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A store with two users, three devices and an e-mail address."""
    if request.param == "sqlite":
        engines = create_engines(tmp_path / "tidings.db")
    else:
        engines = postgres_engines(request.getfixturevalue("postgres_url"), pool_size=2)
    store = SqlStore(*engines, FieldCipher("a secret for the tests"), {})
    await store.upgrade()
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana", email="ana@shop.example"), User("ben")], START)
        await store.contact_points.add(
            tx, [ContactPoint(new_id(START), "ben", "webhook", "https://x.example", "Work", secrets=("s",))], START
        )
        for user, name in (("ana", "phone"), ("ana", "laptop"), ("ben", "tablet")):
            await store.subscriptions.register(tx, make_subscription(user, name), replaces=None, now=START)
        [phone, _] = await store.subscriptions.list_by_user(tx, "ana")
        await store.subscriptions.set_state(tx, [phone.id], SubscriptionState.SUSPENDED, LATER)
        [tablet] = await store.subscriptions.list_by_user(tx, "ben")
        await store.subscriptions.record_results(tx, [TargetChange(tablet.id, False, 2, "HTTP 400")], LATER)
    yield store
    await store.close()


async def read(store: SqlStore) -> tuple[list[PushSubscription], list[ContactPoint]]:
    async with store.read_snapshot() as tx:
        return (
            [one for user in ("ana", "ben") for one in await store.subscriptions.list_by_user(tx, user)],
            [one for user in ("ana", "ben") for one in await store.contact_points.list_by_user(tx, user)],
        )


def engine_of(store: SqlStore) -> AsyncEngine:
    return store._writer


async def downgrade(store: SqlStore) -> None:
    """Revert the migration under test, and those after it."""
    scripts = migrate._load_scripts().walk_revisions()
    [script] = [script for script in scripts if script.path.endswith("_push_contact_points.py")]
    async with engine_of(store).connect() as connection:
        await connection.run_sync(migrate.downgrade, str(script.down_revision))


async def test_devices_and_addresses_survive_down_and_up(store: SqlStore) -> None:
    devices, addresses = await read(store)
    assert len(devices) == 3
    assert [(one.user_id, one.channel) for one in addresses] == [("ana", "email"), ("ben", "webhook")]
    for _ in range(2):
        await downgrade(store)
        async with engine_of(store).connect() as connection:
            for table, count in (("push_subscriptions", 3), ("contact_points", 2)):
                assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == count
            kept = "SELECT refusals, refused_for FROM push_subscriptions WHERE user_id = 'ben'"
            assert tuple((await connection.execute(text(kept))).one()) == (2, "HTTP 400")
            assert await connection.scalar(text("SELECT count(*) FROM contact_points WHERE channel = 'webpush'")) == 0
        await store.upgrade()
        assert await read(store) == (devices, addresses)
    # the keyed digests still find them
    async with store.transaction() as tx:
        again = make_subscription("ana", "laptop")
        result, stored = await store.subscriptions.register(tx, again, replaces=None, now=LATER)
        assert (result, stored.id, stored.version) == (RegistrationResult.KNOWN, devices[1].id, 2)
        assert await store.contact_points.find_users(tx, "email", "ANA@shop.example") == ["ana"]
        # one more refusal for the same reason suspends the device
        [suspended] = await store.subscriptions.record_results(
            tx, [TargetChange(devices[2].id, False, 1, "HTTP 400")], LATER
        )
        assert suspended[1] == "HTTP 400"
        assert addresses[0].state is ContactPointState.ACTIVE


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
async def test_processes_of_the_previous_version_register_and_mark_devices(store: SqlStore) -> None:
    devices, addresses = await read(store)
    added = new_id(LATER)
    values = {"id": added, "digest": "d" * 64, "from": devices[0].id}
    async with engine_of(store).connect() as connection, connection.begin():

        async def run(name: str) -> list[tuple[object, ...]] | int:
            done = await connection.execute(text(PREVIOUS[name]), values)
            return [tuple(row) for row in done] if done.returns_rows else done.rowcount

        assert [await run("register"), await run("register")] == [1, 0]
        assert [version for _, version in await run("lock")] == [1]  # type: ignore[union-attr]  # rows
        assert await run("overwrite") == [(2,)]
        row = await connection.execute(
            text("SELECT channel, label, version FROM contact_points WHERE id = :id"), values
        )
        assert tuple(row.one()) == ("webpush", "Newer", 2)
        assert [await run("mark"), await run("purge")] == [1, 1]
    assert await read(store) == (devices, addresses)


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
async def test_the_rows_of_devices_are_not_rewritten(store: SqlStore) -> None:
    await downgrade(store)
    place = "SELECT id, ctid::text FROM {} WHERE sealed IS NOT NULL ORDER BY id"
    async with engine_of(store).connect() as connection:
        before = {row[0]: row[1] for row in await connection.execute(text(place.format("push_subscriptions")))}
        file = await connection.scalar(text("SELECT pg_relation_filenode('push_subscriptions')"))
    await store.upgrade()
    async with engine_of(store).connect() as connection:
        after = {row[0]: row[1] for row in await connection.execute(text(place.format("contact_points")))}
        assert await connection.scalar(text("SELECT pg_relation_filenode('contact_points')")) == file
    assert {key: after[key] for key in before} == before
