"""The heartbeat repository satisfies its contract on both dialects."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.processes_contract import ProcessesContract


class TestSqliteProcesses(ProcessesContract):
    """Uses the fixture `store` of the root conftest."""


class TestPostgresProcesses(ProcessesContract):
    """Uses a PostgreSQL database."""

    @pytest.fixture
    def store(self, postgres_store: SqlStore) -> SqlStore:
        return postgres_store
