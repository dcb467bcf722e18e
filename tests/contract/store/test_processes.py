"""Heartbeats keep their contract on both dialects."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.processes_contract import ProcessesContract


class TestSqliteProcesses(ProcessesContract):
    """With the fixture `store` of the root conftest."""


class TestPostgresProcesses(ProcessesContract):
    """On a database of its own."""

    @pytest.fixture
    def store(self, postgres_store: SqlStore) -> SqlStore:
        return postgres_store
