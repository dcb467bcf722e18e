"""The SQLite store keeps the contract of `ports.store`; its connections wait for each other."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from tidings.stores.sqlite import blocking_engine
from tidings.testing.contracts.audiences_contract import AudiencesContract
from tidings.testing.contracts.store_contract import StoreContract


class TestSqliteStore(StoreContract):
    """With the fixture `store` of the root conftest."""


class TestSqliteAudiences(AudiencesContract):
    """With the fixture `populate` of this folder's conftest."""


def test_a_new_file_that_another_process_writes_to_is_waited_for(tmp_path: Path) -> None:
    """Of two connections that put a new file into WAL mode SQLite refuses one at once, whatever its busy time-out."""
    path = tmp_path / "tidings.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE made (it)")
    engine = blocking_engine(path)

    def mode() -> object:
        with engine.connect() as connection:
            return connection.exec_driver_sql("PRAGMA journal_mode").scalar()

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(mode)
        assert not wait([asked], timeout=0.5).done, "neither refused nor let through"
        other.execute("COMMIT")
        other.close()
        assert asked.result(30) == "wal"
    engine.dispose()
