"""Viewers of live rooms that answer heartbeats and join again by themselves, as a player page does."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.server import TidingsServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

#: the user has no access: a client does not join again
REFUSED = 4403
#: seconds before a viewer joins again
PAUSE = 0.2


class StreamViewer:
    """One user who watches the stream of an event, on the first server that accepts the connection."""

    def __init__(self, servers: Sequence[TidingsServer], event: str, user: str) -> None:
        self._servers = list(servers)
        self._event = event
        self._user = user
        self._task: asyncio.Task[None] | None = None
        self.joined = asyncio.Event()
        #: the codes with which connections were closed
        self.close_codes: list[int] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Join, and return once the server has answered."""
        self._task = asyncio.create_task(self._run())
        await asyncio.wait_for(self.joined.wait(), 60)

    async def stop(self) -> None:
        """Close the connection, and do not join again."""
        assert self._task is not None, "entered before"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while REFUSED not in self.close_codes:
            for server in self._servers:
                with suppress(OSError, InvalidHandshake, TimeoutError):
                    await self._watch(server)
                    break
            await asyncio.sleep(PAUSE)

    async def _watch(self, server: TidingsServer) -> None:
        url = server.url.replace("http://", "ws://")
        token = server.user_token(self._user)
        async with connect(f"{url}/api/streams/{self._event}/ws?token={token}", open_timeout=5) as socket:
            try:
                async for message in socket:
                    kind = json.loads(message)["type"]
                    if kind == "ping":
                        await socket.send("{}")
                    elif kind == "joined":
                        self.joined.set()
            except ConnectionClosed:
                pass
            finally:
                self.joined.clear()
                if socket.close_code is not None:
                    self.close_codes.append(socket.close_code)
