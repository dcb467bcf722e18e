"""The user rate limit repository satisfies its contract on both dialects."""

from collections.abc import AsyncIterator

import pytest

from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.contracts.limits_contract import LimitsContract


class TestSqliteLimits(LimitsContract):
    """Uses the fixture `store` of the root conftest."""


class TestPostgresLimits(LimitsContract):
    """Uses a PostgreSQL store with one connection per concurrent caller."""

    @pytest.fixture
    async def store(self, upgraded_url: str) -> AsyncIterator[SqlStore]:
        opened = SqlStore(*create_engines(upgraded_url, pool_size=20), FieldCipher("a secret for the tests"), {})
        yield opened
        await opened.close()
