"""The WebSocket protocol of the server: tells a lost connection from a closed one, and can abort a connection."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

#: key in the extensions of an ASGI scope: closes the connection without waiting for unsent data
ABORT = "tidings.abort"
#: the connection ended without a closing handshake (RFC 6455 §7.1.5)
ABNORMAL_CLOSURE = 1006


class MessageQueue:
    """The messages of one connection, for its one reader. An `asyncio.Queue` takes 3 KiB, this one 100 bytes."""

    __slots__ = ("_messages", "_waiter")

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, message: Any) -> None:
        """Add a message."""
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def empty(self) -> bool:
        """Return whether no message waits."""
        return not self._messages

    async def get(self) -> Any:
        """Remove and return the oldest message, after waiting for one."""
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._messages.pop(0)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Adds to the scope a function that aborts the connection, and reports a lost connection with code 1006.

    uvicorn reports 1005 for a connection that was lost, which is also the code of a clean close without a code.
    What only the handshake needs is dropped after it: many idle connections should take little memory.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.queue = MessageQueue()  # type: ignore[assignment]  # what uvicorn uses of a queue
        self._has_handshake_data = True

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        if scope is not None:
            extensions = cast("dict[str, Any]", scope["extensions"])
            abort: Callable[[], None] = self.transport.abort
            extensions[ABORT] = abort

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self._has_handshake_data and self.handshake_complete:
            self._has_handshake_data = False
            # the parser keeps the request
            self.request.headers.clear()
            self.response.headers.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.handshake_complete and not self.close_sent and self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": ABNORMAL_CLOSURE})
        super().connection_lost(exc)
