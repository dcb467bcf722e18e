"""The dead letter repository satisfies its contract on both dialects."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.dead_letters_contract import DeadLettersContract


class TestSqliteDeadLetters(DeadLettersContract):
    """Uses the fixture `store` of the root conftest."""


class TestPostgresDeadLetters(DeadLettersContract):
    """Uses a PostgreSQL database."""

    @pytest.fixture
    def store(self, postgres_store: SqlStore) -> SqlStore:
        return postgres_store
