"""The WebSocket of live rooms: authenticates a viewer, registers the connection, and passes on signs of life.

A plain ASGI application, because 10 000 idle connections should take little memory. It is served on the main port and
on `WEBSOCKET_PORT`. Refusals are close codes after the handshake: of a failed handshake browsers tell pages nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from tidings.api.http.rate_limit import Network, client_key
from tidings.credentials import read_user_token
from tidings.errors import BackendError, Unauthenticated
from tidings.model.stream import StreamEvent
from tidings.packs.streams.room_node import RoomNode
from tidings.packs.streams.tickets import TicketService
from tidings.packs.streams.viewers import CloseCode, Viewer
from tidings.ports.clock import Clock

log = structlog.get_logger(__name__)

#: bytes that wait for a client besides those in the socket
MAX_BUFFERED_BYTES = 64 * 1024
#: messages that may wait for a client
MAX_BUFFERED_MESSAGES = 256
#: seconds for the closing handshake, after which the connection is aborted
CLOSE_TIMEOUT = 5.0
#: key of the protocol's function in the extensions of the scope
ABORT = "tidings.abort"
#: clean closes by a client: normal, going away, no code
_CLEAN_CODES = frozenset({1000, 1001, 1005})
#: close code while the database does not respond
_TRY_AGAIN_LATER = 1013


@dataclass(frozen=True, slots=True)
class Admission:
    """A viewer who may join."""

    user_id: str
    event: StreamEvent
    authorized_until: datetime


class BufferedConnection:
    """The messages that wait for one client. A writer task exists only while there are some."""

    __slots__ = ("_abort", "_buffered", "_closing", "_queue", "_send", "_writer")

    def __init__(self, send: Send, abort: Callable[[], None] | None) -> None:
        """abort: closes the connection without waiting for unsent data; None = the server has no such function."""
        self._send = send
        self._abort = abort
        # not a deque, which takes 760 bytes while it is empty
        self._queue: list[bytes] = []
        self._buffered = 0
        self._closing: int | None = None
        self._writer: asyncio.Task[None] | None = None

    def send(self, message: bytes) -> None:
        """Queue a message. If the buffer is full, the connection is closed, so that the client reads it all afresh."""
        if self._closing is not None:
            return
        if self._buffered + len(message) > MAX_BUFFERED_BYTES or len(self._queue) >= MAX_BUFFERED_MESSAGES:
            self._queue.clear()
            self.close(CloseCode.TOO_SLOW)
            return
        self._queue.append(message)
        self._buffered += len(message)
        self._start_writer()

    def close(self, code: int) -> None:
        """Close the connection after the queued messages."""
        if self._closing is not None:
            return
        self._closing = code
        if self._abort is not None:
            # a client that reads nothing would keep the connection open
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._abort)
        self._start_writer()

    def stop(self) -> None:
        """End the writer: the connection has ended."""
        self._closing = self._closing or 1006
        self._queue.clear()
        if self._writer is not None:
            self._writer.cancel()

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._queue:
                message = self._queue.pop(0)
                await self._send({"type": "websocket.send", "text": message.decode()})
                self._buffered -= len(message)
            if self._closing is not None:
                await self._send({"type": "websocket.close", "code": self._closing})
        except OSError:
            # the client has disconnected; the reader sees it too and removes the viewer
            self._closing = self._closing or 1006
        finally:
            self._writer = None


class StreamSocket:
    """The ASGI application of `/api/streams/{event_id}/ws`."""

    def __init__(
        self,
        rooms: RoomNode,
        tickets: TicketService,
        clock: Clock,
        *,
        user_secret: str,
        origins: Sequence[str],
        trusted_proxies: Sequence[Network],
    ) -> None:
        """origins: of other sites whose pages may connect. trusted_proxies: whose `X-Forwarded-For` counts."""
        self._rooms = rooms
        self._tickets = tickets
        self._clock = clock
        self._user_secret = user_secret
        self._origins = frozenset(origins)
        self._trusted = tuple(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        await receive()  # websocket.connect
        if not is_trusted_origin(Headers(scope=scope), self._origins):
            log.warning("websocket_origin_refused", origin=Headers(scope=scope).get("origin", "")[:200])
            await send({"type": "websocket.close", "code": CloseCode.REFUSED})
            return
        address = client_key(HTTPConnection(scope), self._trusted)
        admission = await self._admit(scope, address)
        # nothing reads them later, and a connection should take little memory
        scope["headers"].clear()
        await send({"type": "websocket.accept"})
        if not isinstance(admission, Admission):
            await send({"type": "websocket.close", "code": admission})
            return
        connection = BufferedConnection(send, scope.get("extensions", {}).get(ABORT))
        viewer = await self._rooms.join(
            admission.event,
            admission.user_id,
            connection,
            address=address,
            authorized_until=admission.authorized_until,
        )
        # also if the task is cancelled at a shutdown
        code: int = CloseCode.RESTART
        try:
            code = await self._read_until_disconnect(receive, viewer)
        finally:
            connection.stop()
            if code != CloseCode.RESTART:
                # after a shutdown the viewers are reported together: it is no departure
                self._rooms.leave(viewer, is_clean=code in _CLEAN_CODES)

    async def _admit(self, scope: Scope, address: str) -> Admission | int:
        """Return the admission, or the close code with which the client is refused."""
        event_id: str = scope["path_params"]["event_id"]
        query = parse_qs(scope["query_string"].decode("latin-1"))
        try:
            authorization = await self._authenticate(query)
            if authorization is None:
                return CloseCode.TOKEN_EXPIRED
            user_id, authorized_until = authorization
            event, settings = await self._rooms.find_stream(event_id)
            if event is None or not await self._rooms.can_watch(event, settings, user_id):
                return CloseCode.REFUSED
        except BackendError:
            return _TRY_AGAIN_LATER
        if not self._rooms.registry.has_capacity(user_id, address):
            return CloseCode.TOO_MANY
        return Admission(user_id, event, authorized_until)

    async def _authenticate(self, query: Mapping[str, list[str]]) -> tuple[str, datetime] | None:
        """Return the user and the end of the authorisation, None if the token or ticket is not valid any more."""
        if ticket := query.get("ticket"):
            return await self._tickets.redeem(ticket[0])
        try:
            token = read_user_token(self._user_secret, query.get("token", [""])[0], self._clock.now())
        except Unauthenticated:
            return None
        return token.user_id, token.expires_at

    async def _read_until_disconnect(self, receive: Callable[[], Awaitable[Message]], viewer: Viewer) -> int:
        """Count each message as a sign of life, and return the close code."""
        while True:
            message: Mapping[str, Any] = await receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or 1005)
            self._rooms.mark_seen(viewer)


def is_trusted_origin(headers: Headers, origins: frozenset[str]) -> bool:
    """Return whether a page of this origin may connect. Programs send none, browsers always do (RFC 6455 §10.2)."""
    origin = headers.get("origin")
    if origin is None or origin in origins:
        return True
    return bool(parts := urlsplit(origin).netloc) and parts == headers.get("host")
