"""The SQLite store satisfies the contract of `ports.store`, and its connections wait for each other's locks."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tidings.stores.engine import sqlite
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.sqlite import create_sync_engine
from tidings.stores.store import SqlStore
from tidings.testing.contracts.audiences_contract import AudiencesContract
from tidings.testing.contracts.store_contract import StoreContract
from tidings.testing.contracts.targeting_contract import TargetingContract


class TestSqliteStore(StoreContract):
    """Uses the fixture `store` of the root conftest."""


class TestSqliteAudiences(AudiencesContract):
    """Uses the fixture `populate` of this folder's conftest."""


class TestSqliteTargeting(TargetingContract):
    """Uses the fixture `store`."""


def test_a_commit_is_synchronised_to_disk(tmp_path: Path, power_cuts: None) -> None:
    engine = create_sync_engine(tmp_path / "tidings.db")
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    engine.dispose()
    assert found == ["wal", 2], "FULL is 2"


def test_opening_a_new_file_waits_for_another_writer(tmp_path: Path) -> None:
    """When two connections switch a new file to WAL, SQLite rejects one at once, regardless of the busy timeout."""
    path = tmp_path / "tidings.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE made (it)")
    engine = create_sync_engine(path)

    def mode() -> object:
        with engine.connect() as connection:
            return connection.exec_driver_sql("PRAGMA journal_mode").scalar()

    with ThreadPoolExecutor(1) as threads:
        pending = threads.submit(mode)
        assert not wait([pending], timeout=0.5).done, "the connection must wait"
        other.execute("COMMIT")
        other.close()
        assert pending.result(30) == "wal"
    engine.dispose()


async def test_the_write_ahead_log_is_truncated_when_it_is_large(store: SqlStore, tmp_path: Path) -> None:
    log = tmp_path / "tidings.db-wal"
    async with store.transaction() as tx:
        await store.set_queue_instance_id(tx, "x" * 100_000)
    assert not await store.truncate_log(), "below the limit"
    assert log.stat().st_size > 100_000
    async with store.read_snapshot() as tx:
        assert await store.get_queue_instance_id(tx)
        async with store.transaction() as other:
            await store.set_queue_instance_id(other, "y")
        assert not await sqlite.truncate_log(store._writer, above=50_000), "a reader needs it"
    assert await sqlite.truncate_log(store._writer, above=50_000)
    assert log.stat().st_size == 0
    async with store.transaction() as tx:
        await store.set_queue_instance_id(tx, "z")
        assert await store.get_queue_instance_id(tx) == "z"


async def test_a_log_that_grew_shrinks_while_the_database_is_in_use(
    monkeypatch: pytest.MonkeyPatch, upgraded_database: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(sqlite, "_PRAGMAS", (*sqlite._PRAGMAS, "PRAGMA journal_size_limit=20000"))
    shutil.copy(upgraded_database, tmp_path / "tidings.db")
    store = SqlStore(*sqlite.create_engines(tmp_path / "tidings.db"), FieldCipher("a secret for the tests"), {})
    for value in ("x" * 8_000_000, "y", "z"):
        async with store.transaction() as tx:
            await store.set_queue_instance_id(tx, value)
    assert (tmp_path / "tidings.db-wal").stat().st_size <= 40_000
    await store.close()
