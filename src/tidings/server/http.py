"""uvicorn, with the signals and the moment of readiness in our hands."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

#: how long requests in progress may take to end after a stop was asked for, in seconds
REQUESTS_DEADLINE = 3.0


class HttpServer(uvicorn.Server):
    """Answers on one socket until it is stopped.

    At a stop WebSockets are closed with 1012, "service restart": clients come back, to whoever is there by then.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        ready: Callable[[], None],
        *,
        deadline: float,
        websockets: bool = True,
    ) -> None:
        """Take what to serve, and what to call once it is.

        deadline: seconds for requests in progress at the stop. websockets: False = answer none, load nothing for it.
        """
        # uvicorn counts whole seconds
        super().__init__(_config(app, max(1, round(min(deadline, REQUESTS_DEADLINE))), websockets=websockets))
        self._listener = listener
        self._ready = ready

    async def run_until(self, asked: asyncio.Event, hurry: asyncio.Event) -> None:
        """Serve until `asked` is set and requests in progress have ended; once `hurry` is, they are cut short."""
        watches = [
            asyncio.create_task(self._when(asked, "should_exit")),
            asyncio.create_task(self._when(hurry, "force_exit")),
        ]
        try:
            await self.serve(sockets=[self._listener])
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would raise them again at its end, before the workers have stopped."""
        yield

    async def _when(self, event: asyncio.Event, flag: str) -> None:
        await event.wait()
        setattr(self, flag, True)


def _config(app: ASGIApp, graceful_seconds: int, *, websockets: bool) -> uvicorn.Config:
    if not websockets:
        logging.getLogger("uvicorn.error").addFilter(_not_about_websockets)
    return uvicorn.Config(
        app,
        loop="none",  # the loop runs already
        http="httptools",
        ws="auto" if websockets else "none",
        lifespan="off",  # the runtime is opened and closed here
        log_config=None,
        access_log=False,
        server_header=False,
        # Forwarded headers can be written by anybody; without a list of proxies nobody is believed.
        proxy_headers=False,
        # Compressing costs up to 300 KB a connection, for messages of a few hundred bytes.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=graceful_seconds,
    )


def _not_about_websockets(record: logging.LogRecord) -> bool:
    # whoever asks for an upgrade would have the log tell operators to install what is left out on purpose
    return not record.getMessage().startswith("No supported WebSocket library")
