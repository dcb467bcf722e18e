"""Every presence adapter satisfies the contract of `ports.presence`: in memory, Redis, Redis with local fallback."""

from collections.abc import AsyncIterator

import pytest

from tidings.ports.presence import Presence
from tidings.presence.factory import create_presence
from tidings.presence.redis_presence import RedisPresence
from tidings.redis_client import RedisClient
from tidings.testing.contracts.presence_contract import PresenceContract


class TestMemoryPresence(PresenceContract):
    @pytest.fixture
    def presence(self) -> Presence:
        return create_presence(None, "test")


class TestRedisPresence(PresenceContract):
    @pytest.fixture
    async def presence(self, redis_url: str) -> AsyncIterator[Presence]:
        presence = RedisPresence(RedisClient(redis_url, backend="presence"), "test")
        yield presence
        await presence.close()


class TestFailoverPresence(PresenceContract):
    @pytest.fixture
    async def presence(self, redis_url: str) -> AsyncIterator[Presence]:
        presence = create_presence(redis_url, "test")
        yield presence
        await presence.close()
