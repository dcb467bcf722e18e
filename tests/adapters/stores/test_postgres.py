"""The PostgreSQL store satisfies the contract of `ports.store`."""

import pytest

from tidings.stores.store import SqlStore
from tidings.testing.contracts.audiences_contract import AudiencesContract
from tidings.testing.contracts.store_contract import StoreContract
from tidings.testing.contracts.targeting_contract import TargetingContract


@pytest.fixture
def store(postgres_store: SqlStore) -> SqlStore:
    return postgres_store


class TestPostgresStore(StoreContract):
    """Uses the fixture `store` of this file."""


class TestPostgresAudiences(AudiencesContract):
    """Uses the fixture `populate` of this folder's conftest."""


class TestPostgresTargeting(TargetingContract):
    """Uses the fixture `store`."""
