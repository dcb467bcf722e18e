"""Every presence keeps the contract of `ports.presence`: in the process, shared, and shared with a way out."""

from collections.abc import AsyncIterator

import pytest

from tidings.ports.clock import SystemClock
from tidings.ports.presence import Presence
from tidings.presence.opened import open_presence
from tidings.presence.redis import RedisPresence
from tidings.redis_link import RedisLink
from tidings.testing.contracts.presence_contract import PresenceContract


class TestLocalPresence(PresenceContract):
    @pytest.fixture
    def presence(self) -> Presence:
        return open_presence(None, "test", SystemClock())


class TestRedisPresence(PresenceContract):
    @pytest.fixture
    async def presence(self, redis_url: str) -> AsyncIterator[Presence]:
        presence = RedisPresence(RedisLink(redis_url, what="the presence"), "test")
        yield presence
        await presence.close()


class TestFallbackPresence(PresenceContract):
    @pytest.fixture
    async def presence(self, redis_url: str) -> AsyncIterator[Presence]:
        presence = open_presence(redis_url, "test", SystemClock())
        yield presence
        await presence.close()
