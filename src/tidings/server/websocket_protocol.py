"""The WebSocket protocol of the server: tells a lost connection from a closed one, and can abort a connection."""

from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

#: key in the extensions of an ASGI scope: closes the connection without waiting for unsent data
ABORT = "tidings.abort"
#: the connection ended without a closing handshake (RFC 6455 §7.1.5)
ABNORMAL_CLOSURE = 1006


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Adds to the scope a function that aborts the connection, and reports a lost connection with code 1006.

    uvicorn reports 1005 for a connection that was lost, which is also the code of a clean close without a code.
    """

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        if scope is not None:
            extensions = cast("dict[str, Any]", scope["extensions"])
            abort: Callable[[], None] = self.transport.abort
            extensions[ABORT] = abort

    def connection_lost(self, exc: Exception | None) -> None:
        if self.handshake_complete and not self.close_sent and self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": ABNORMAL_CLOSURE})
        super().connection_lost(exc)
