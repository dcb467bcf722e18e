"""The PostgreSQL store keeps the contract of `ports.store`."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.audiences_contract import AudiencesContract
from tidings.testing.contracts.store_contract import StoreContract


@pytest.fixture
def store(postgres_store: SqlStore) -> SqlStore:
    return postgres_store


class TestPostgresStore(StoreContract):
    """With the fixture `store` of this file."""


class TestPostgresAudiences(AudiencesContract):
    """With the fixture `populate` of this folder's conftest."""
