"""The SQLite store keeps the contract of `ports.store`."""

from tidings.testing.contracts.audiences_contract import AudiencesContract
from tidings.testing.contracts.store_contract import StoreContract


class TestSqliteStore(StoreContract):
    """With the fixture `store` of the root conftest."""


class TestSqliteAudiences(AudiencesContract):
    """With the fixture `populate` of this folder's conftest."""
