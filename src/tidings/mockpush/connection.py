"""HTTP/1.1 server connection with keep-alive and pipelining, on a bare asyncio protocol.

Responses keep the order of the requests. A request with an immediate response needs no task, and the responses to all
requests of one read are written together.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, MutableSet
from typing import NamedTuple, cast

import httptools

from tidings.mockpush.responses import MockResponse, SlowResponse, build_json_response

#: bytes of a body that are kept; the rest is discarded, because such a body is rejected as too large
MAX_BODY_KEPT = 1 << 20
#: maximum bytes of a request's head
_MAX_HEAD = 1 << 16
#: requests that may be queued behind a slow response
_MAX_PIPELINED = 256


class Request(NamedTuple):
    """One parsed request. Header names are in lower case."""

    method: bytes
    #: path with query, as sent
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool


Responder = Callable[[Request], MockResponse]


class Connection(asyncio.Protocol):
    """Parses requests, calls `respond` for each and writes the responses in order."""

    def __init__(self, respond: Responder, connections: MutableSet["Connection"]) -> None:
        self._respond = respond
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._pipelined: deque[Request] = deque()
        self._out_buffer: list[bytes] = []
        self._slow_task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closing = False
        self._in_head = True
        self._head_size = 0

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio.Protocol's signature
        self._closing = True
        self._connections.discard(self)
        self._writable.set()
        if self._slow_task is not None:
            self._slow_task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._in_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # An error of this service, not of the client: it is reported and must not stop the server.
            asyncio.get_running_loop().call_exception_handler({"message": "a request failed", "exception": error})
            self._reject(500, "the mock push service failed; see its log")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reject(400, "not an HTTP/1.1 request")
        if self._in_head and self._head_size > _MAX_HEAD:
            self._reject(431, f"the head is larger than {_MAX_HEAD} bytes")
        self._flush()

    def pause_writing(self) -> None:
        self._writable.clear()
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        self._resume_reading()

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
        if b"expect" in self._headers and self._slow_task is None:
            self._out_buffer.append(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if len(self._body) <= MAX_BODY_KEPT:
            self._body += body

    def on_message_complete(self) -> None:
        parser = self._parser
        request = Request(parser.get_method(), self._target, self._headers, self._body, parser.should_keep_alive())
        if self._closing:
            return
        if self._slow_task is None:
            self._handle_request(request)
            return
        self._pipelined.append(request)
        if len(self._pipelined) >= _MAX_PIPELINED and not self._transport.is_closing():
            self._transport.pause_reading()

    # --- responses

    def _handle_request(self, request: Request) -> None:
        response = self._respond(request)
        if not isinstance(response, bytes):
            self._flush()
            self._slow_task = asyncio.get_running_loop().create_task(self._write_slowly(response, request.keep_alive))
            return
        self._out_buffer.append(response)
        if not request.keep_alive:
            self._close()

    async def _write_slowly(self, slow_response: SlowResponse, keep_alive: bool) -> None:
        complete = False
        try:
            await slow_response(self)
            complete = True
        finally:
            self._slow_task = None
            if not complete:
                self._close()
        if not keep_alive:
            self._close()
        while self._pipelined and self._slow_task is None and not self._closing:
            self._handle_request(self._pipelined.popleft())
        self._flush()
        self._resume_reading()

    def _resume_reading(self) -> None:
        if self._writable.is_set() and len(self._pipelined) < _MAX_PIPELINED and not self._transport.is_closing():
            self._transport.resume_reading()

    def _flush(self) -> None:
        if self._out_buffer and not self._transport.is_closing():
            self._transport.write(b"".join(self._out_buffer))
        self._out_buffer.clear()

    def _reject(self, status: int, message: str) -> None:
        if self._slow_task is None and not self._closing:
            self._out_buffer.append(build_json_response(status, {"reason": "malformed", "message": message}))
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._flush()
        self._transport.close()

    # --- ClientConnection, used by slow responses

    def write(self, data: bytes) -> None:
        """Send bytes now."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client reads more; returns at once if it has disconnected. Always yields to the event loop."""
        await self._writable.wait()
        await asyncio.sleep(0)

    def drop(self) -> None:
        """Close without a response, as a crashed server would."""
        self._closing = True
        self._transport.abort()

    async def stop(self) -> None:
        """Close the connection and cancel a slow response."""
        slow_task = self._slow_task
        self._closing = True
        self._transport.abort()
        if slow_task is not None:
            slow_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await slow_task
