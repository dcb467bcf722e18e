"""The invalidation listener of a cache resubscribes by itself after connection failures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from tests.support.server import eventually

from tidings.caches.invalidation_listener import InvalidationListener
from tidings.redis_client import RedisClient


class UnresponsiveProxy:
    """A proxy in front of Redis that relays traffic, or accepts connections without answering."""

    def __init__(self, redis_url: str) -> None:
        self._upstream = urlsplit(redis_url)
        self._open: list[asyncio.StreamWriter] = []
        self.silent = False
        #: connections accepted while silent
        self.ignored = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection, or ignore it while silent."""
        self._open.append(writer)
        if self.silent:
            self.ignored += 1
            while await reader.read(1 << 16):
                pass
            return
        from_redis, to_redis = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        await asyncio.gather(_relay(reader, to_redis), _relay(from_redis, writer))

    def cut(self) -> None:
        """Cut every connection."""
        while self._open:
            self._open.pop().close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def unresponsive_proxy(redis_url: str) -> AsyncIterator[tuple[UnresponsiveProxy, str]]:
    proxy = UnresponsiveProxy(redis_url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    yield proxy, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    proxy.cut()
    server.close()


async def test_the_listener_gives_up_a_connection_that_never_answers(
    unresponsive_proxy: tuple[UnresponsiveProxy, str],
) -> None:
    proxy, url = unresponsive_proxy
    redis_client = RedisClient(url, decode=False)
    listener = InvalidationListener(redis_client.client, "drops", on_invalidation=lambda _: None, on_gap=lambda: None)
    listener.start()

    async def is_listening() -> bool:
        return listener.is_current

    async def is_cut_off() -> bool:
        return proxy.ignored > 0 and not listener.is_current

    await eventually(is_listening)
    proxy.silent = True
    proxy.cut()
    await eventually(is_cut_off)
    # new connections are relayed from here on; the unanswered one stays unanswered
    proxy.silent = False
    await eventually(is_listening, within=20)
    await listener.close()
    await redis_client.close()
