"""Dead letters keep their contract on both dialects."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.dead_letters_contract import DeadLettersContract


class TestSqliteDeadLetters(DeadLettersContract):
    """With the fixture `store` of the root conftest."""


class TestPostgresDeadLetters(DeadLettersContract):
    """On a database of its own."""

    @pytest.fixture
    def store(self, postgres_store: SqlStore) -> SqlStore:
        return postgres_store
