"""A uvicorn server that leaves signals to the process and reports when it is ready."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from tidings.server.http_protocol import LimitedHttpProtocol

#: seconds for requests in progress after a shutdown is requested
REQUEST_DRAIN_TIMEOUT = 3.0
#: largest message of a WebSocket client, in bytes; clients only send signs of life
MAX_MESSAGE_BYTES = 16 * 1024


class HttpServer(uvicorn.Server):
    """Serves one socket until a shutdown.

    A shutdown closes WebSockets with code 1012, "service restart", after which clients reconnect.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        on_ready: Callable[[], None],
        *,
        deadline: float,
        websockets: bool = True,
    ) -> None:
        """Create the server.

        listener: a bound socket. on_ready: called once requests are accepted. deadline: seconds for requests in
        progress at a shutdown. websockets: False = reject WebSockets and do not load their library.
        """
        # uvicorn takes whole seconds
        super().__init__(_build_config(app, max(1, round(min(deadline, REQUEST_DRAIN_TIMEOUT))), websockets=websockets))
        self._listener = listener
        self._on_ready = on_ready

    async def run_until(self, requested: asyncio.Event, forced: asyncio.Event) -> None:
        """Serve until `requested` is set and requests in progress have ended; `forced` aborts them."""
        watches = [
            asyncio.create_task(self._set_flag_when(requested, "should_exit")),
            asyncio.create_task(self._set_flag_when(forced, "force_exit")),
        ]
        try:
            await self.serve(sockets=[self._listener])
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not handle signals: uvicorn would raise them again at its end, before the worker has stopped."""
        yield

    async def _set_flag_when(self, event: asyncio.Event, flag: str) -> None:
        await event.wait()
        setattr(self, flag, True)


def _build_config(app: ASGIApp, graceful_seconds: int, *, websockets: bool) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").addFilter(_is_no_websocket_request)
    if not websockets:
        logging.getLogger("uvicorn.error").addFilter(_is_unrelated_to_websockets)
    return uvicorn.Config(
        app,
        loop="none",  # the loop runs already
        http=LimitedHttpProtocol,
        ws=_websocket_protocol() if websockets else "none",
        ws_max_size=MAX_MESSAGE_BYTES,
        # rooms have heartbeats of their own, on one timer wheel instead of a timer per connection
        ws_ping_interval=None,
        lifespan="off",  # `roles` opens and closes the container
        log_config=None,
        access_log=False,
        server_header=False,
        # Any client can send forwarded headers; without a list of trusted proxies none is trusted.
        proxy_headers=False,
        # Compression takes up to 300 KB per connection, for messages of a few hundred bytes.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=graceful_seconds,
    )


def _websocket_protocol() -> type[asyncio.Protocol]:
    # imported here, because a worker's HTTP server does not load the library of WebSockets
    from tidings.server.websocket_protocol import WebSocketProtocol

    return WebSocketProtocol


def _is_no_websocket_request(record: logging.LogRecord) -> bool:
    # uvicorn logs the URL of each WebSocket, whose query contains a token
    return not str(record.msg).startswith('%s - "WebSocket %s"')


def _is_unrelated_to_websockets(record: logging.LogRecord) -> bool:
    # uvicorn logs this warning for each upgrade request, but the library is left out on purpose
    return not record.getMessage().startswith("No supported WebSocket library")
