"""The subscription of a cache comes back by itself, whatever it meets on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tidings.caches.hearing import Hearing
from tidings.redis_link import RedisLink
from tidings.testing.server import eventually


class HalfDead:
    """Stands before a Redis: passes everything on, or takes connections and says nothing."""

    def __init__(self, redis_url: str) -> None:
        self._behind = urlsplit(redis_url)
        self._open: list[asyncio.StreamWriter] = []
        self.silent = False
        #: connections taken while silent
        self.ignored = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection."""
        self._open.append(writer)
        if self.silent:
            self.ignored += 1
            while await reader.read(1 << 16):
                pass
            return
        behind, to_behind = await asyncio.open_connection(self._behind.hostname, self._behind.port)
        await asyncio.gather(_pass_on(reader, to_behind), _pass_on(behind, writer))

    def cut(self) -> None:
        """Cut every connection."""
        while self._open:
            self._open.pop().close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def half_dead(redis_url: str) -> AsyncIterator[tuple[HalfDead, str]]:
    proxy = HalfDead(redis_url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    yield proxy, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    proxy.cut()
    server.close()


async def test_a_peer_that_takes_the_new_connection_and_says_nothing_is_given_up(
    half_dead: tuple[HalfDead, str],
) -> None:
    proxy, url = half_dead
    link = RedisLink(url, decode=False)
    hearing = Hearing(link.client, "drops", dropped=lambda _: None, deaf=lambda: None)
    hearing.start()

    async def listens() -> bool:
        return hearing.listens

    async def deaf() -> bool:
        return proxy.ignored > 0 and not hearing.listens

    await eventually(listens)
    proxy.silent = True
    proxy.cut()
    await eventually(deaf)
    # connections made from here on are good; the one that hangs stays as it is
    proxy.silent = False
    await eventually(listens, within=20)
    await hearing.close()
    await link.close()
