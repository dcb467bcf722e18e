"""One client connection: HTTP/1.1 with keep-alive and pipelining on a bare asyncio protocol.

Answers keep the order of the requests. A request that is answered at once costs no task and no extra write: what one
read brought in is answered by one write.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, MutableSet
from typing import NamedTuple, cast

import httptools

from tidings.testing.mock_push.plays import Answer, Play, json_response

#: bytes of a body that are kept; what goes beyond is read and dropped, and the body counts as too large anyway
MAX_BODY_KEPT = 1 << 20
#: bytes of a request's head
_MAX_HEAD = 1 << 16
#: requests that may wait behind one that takes its time
_MAX_WAITING = 256


class Request(NamedTuple):
    """One parsed request. Header names are in lower case."""

    method: bytes
    #: path with query, as sent
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool


Respond = Callable[[Request], Answer]


class Connection(asyncio.Protocol):
    """Parses requests, asks `respond` for each answer and writes them in order."""

    def __init__(self, respond: Respond, connections: MutableSet["Connection"]) -> None:
        self._respond = respond
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._out: list[bytes] = []
        self._playing: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closing = False
        self._in_head = True
        self._head_size = 0

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol says so
        self._closing = True
        self._connections.discard(self)
        self._writable.set()
        if self._playing is not None:
            self._playing.cancel()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._in_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # A fault of ours, not of the client: it must be seen, and it must not end the server.
            asyncio.get_running_loop().call_exception_handler({"message": "a request failed", "exception": error})
            self._give_up(500, "the mock push service failed; see its log")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._give_up(400, "not an HTTP/1.1 request")
        if self._in_head and self._head_size > _MAX_HEAD:
            self._give_up(431, f"the head is larger than {_MAX_HEAD} bytes")
        self._flush()

    def pause_writing(self) -> None:
        self._writable.clear()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        self._read_on()

    # --- httptools callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_size = 0
        if b"expect" in self._headers and self._playing is None:
            self._out.append(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if len(self._body) <= MAX_BODY_KEPT:
            self._body += body

    def on_message_complete(self) -> None:
        parser = self._parser
        request = Request(parser.get_method(), self._target, self._headers, self._body, parser.should_keep_alive())
        if self._closing:
            return
        if self._playing is None:
            self._answer(request)
            return
        self._waiting.append(request)
        if len(self._waiting) >= _MAX_WAITING and not self._transport.is_closing():
            self._transport.pause_reading()

    # --- answers

    def _answer(self, request: Request) -> None:
        answer = self._respond(request)
        if not isinstance(answer, bytes):
            self._flush()
            self._playing = asyncio.get_running_loop().create_task(self._play(answer, request.keep_alive))
            return
        self._out.append(answer)
        if not request.keep_alive:
            self._close()

    async def _play(self, play: Play, keep_alive: bool) -> None:
        complete = False
        try:
            await play(self)
            complete = True
        finally:
            self._playing = None
            if not complete:
                self._close()
        if not keep_alive:
            self._close()
        while self._waiting and self._playing is None and not self._closing:
            self._answer(self._waiting.popleft())
        self._flush()
        self._read_on()

    def _read_on(self) -> None:
        if self._writable.is_set() and len(self._waiting) < _MAX_WAITING and not self._transport.is_closing():
            self._transport.resume_reading()

    def _flush(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _give_up(self, status: int, message: str) -> None:
        if self._playing is None and not self._closing:
            self._out.append(json_response(status, {"reason": "malformed", "message": message}))
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._flush()
        self._transport.close()

    # --- the wire of a play

    def write(self, data: bytes) -> None:
        """Send bytes now."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client reads on; ends at once when it is gone, and gives others a turn either way."""
        await self._writable.wait()
        await asyncio.sleep(0)

    def drop(self) -> None:
        """Close without an answer, as a crashed server would."""
        self._closing = True
        self._transport.abort()

    async def stop(self) -> None:
        """Close the connection and wait for what was still being answered."""
        playing = self._playing
        self._closing = True
        self._transport.abort()
        if playing is not None:
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
