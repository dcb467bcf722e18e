"""Nodes that share a Valkey, closed again after the test."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tidings.presence.fallback import FallbackPresence
from tidings.presence.redis import RedisPresence
from tidings.redis_link import RedisLink
from tidings.testing.clock import FrozenClock
from tidings.testing.valkey import ValkeyServer

PREFIX = "test"

Nodes = Callable[[str], RedisPresence]
FallbackNodes = Callable[[str], FallbackPresence]


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Makes presences on the server of a URL, all with one prefix."""
    made: list[RedisPresence] = []

    def make(url: str) -> RedisPresence:
        made.append(RedisPresence(RedisLink(url, what="the presence"), PREFIX))
        return made[-1]

    yield make
    for node in made:
        await node.close()


@pytest.fixture
async def fallback_nodes(clock: FrozenClock) -> AsyncIterator[FallbackNodes]:
    """Makes presences with a way out on the server of a URL, all with one prefix and the frozen clock."""
    made: list[FallbackPresence] = []

    def make(url: str) -> FallbackPresence:
        shared = RedisPresence(RedisLink(url, what="the presence"), PREFIX)
        made.append(FallbackPresence(shared, clock, probe_every=0.05))
        return made[-1]

    yield make
    for node in made:
        await node.close()


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey that the test may kill, stop and empty."""
    with ValkeyServer() as server:
        yield server
