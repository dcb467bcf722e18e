"""The schedule repository satisfies its contract on both dialects."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.schedules_contract import SchedulesContract


class TestSqliteSchedules(SchedulesContract):
    """Uses the fixture `store` of the root conftest."""


class TestPostgresSchedules(SchedulesContract):
    """Uses a PostgreSQL database."""

    @pytest.fixture
    def store(self, postgres_store: SqlStore) -> SqlStore:
        return postgres_store
