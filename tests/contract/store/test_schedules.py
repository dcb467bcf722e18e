"""Schedules keep their contract on both dialects."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.schedules_contract import SchedulesContract


class TestSqliteSchedules(SchedulesContract):
    """With the fixture `store` of the root conftest."""


class TestPostgresSchedules(SchedulesContract):
    """On a database of its own."""

    @pytest.fixture
    def store(self, postgres_store: SqlStore) -> SqlStore:
        return postgres_store
