"""Limits per user keep their contract on both dialects."""

from collections.abc import AsyncIterator

import pytest

from tidings.stores.postgres import engines
from tidings.stores.sealing import Sealer
from tidings.stores.store import SqlStore
from tidings.testing.contracts.limits_contract import LimitsContract


class TestSqliteLimits(LimitsContract):
    """With the fixture `store` of the root conftest."""


class TestPostgresLimits(LimitsContract):
    """On a database of its own, with a connection for each of those who count at once."""

    @pytest.fixture
    async def store(self, upgraded_url: str) -> AsyncIterator[SqlStore]:
        opened = SqlStore(*engines(upgraded_url, pool_size=20), Sealer("a secret for the tests"), {})
        yield opened
        await opened.close()
