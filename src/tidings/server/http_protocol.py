"""The HTTP/1.1 protocol of the server, with a limit on the size of request heads.

Neither uvicorn's protocol on httptools nor the parser limits a head: its memory, and the time of everything that parses
a header, would be bounded by the caller only.
"""

import asyncio
from typing import Any, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: bytes of a request line with its headers
MAX_HEAD_BYTES: Final = 32 * 1024
#: seconds for which the rest of a rejected request is read and discarded, so that the client receives the response
_DISCARD_SECONDS: Final = 2.0
#: around the URL and the name and value of a header: ` HTTP/1.1`, `: `, line breaks
_LINE_OVERHEAD: Final = 4

_PROBLEM: Final = msgspec.json.encode(
    {
        "type": "urn:tidings:problem:headers_too_large",
        "title": "Request Header Fields Too Large",
        "status": 431,
        "detail": f"The request line and the headers exceed the limit of {MAX_HEAD_BYTES} bytes.",
        "code": "headers_too_large",
    }
)
_RESPONSE: Final = b"".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        b"content-type: application/problem+json\r\n",
        b"content-length: %d\r\n" % len(_PROBLEM),
        b"cache-control: no-store\r\n",
        b"x-content-type-options: nosniff\r\n",
        b"connection: close\r\n",
        b"\r\n",
        _PROBLEM,
    )
)


class LimitedHttpProtocol(HttpToolsProtocol):
    """Rejects a request whose head is larger than `MAX_HEAD_BYTES` with 431, and closes its connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: bytes of the parsed lines of the head, and of its trailer
        self._parsed_bytes = 0
        #: bytes that arrived since the head began, or without a byte of the body: the parser keeps incomplete lines
        self._pending_bytes = 0
        self._is_in_message = self._is_in_head = self._has_body_bytes = False
        self._messages_begun = 0
        self._is_rejected = False
        self._closing: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._is_rejected:
            return
        was_in_message, was_in_head, begun = self._is_in_message, self._is_in_head, self._messages_begun
        self._has_body_bytes = False
        super().data_received(data)
        if not self._is_in_message or self._is_rejected:
            return
        if self._messages_begun > begun:
            # in a chunk with several requests it is not known where the last one begins
            is_single = self._messages_begun == begun + 1 and not was_in_message
            self._pending_bytes = len(data) if is_single and self._is_in_head else 0
        elif self._has_body_bytes or was_in_head is not self._is_in_head:
            self._pending_bytes = 0
        else:
            # of the head; or of chunk headers and a trailer
            self._pending_bytes += len(data)
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._reject()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_message = self._is_in_head = True
        self._messages_begun += 1
        self._parsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._parsed_bytes += len(url) + _LINE_OVERHEAD
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # also called for the fields of a trailer, after the head
        self._parsed_bytes += len(name) + len(value) + _LINE_OVERHEAD
        if self._parsed_bytes <= MAX_HEAD_BYTES:
            super().on_header(name, value)
        elif not self._is_in_head and not self._is_rejected:
            self._reject()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self._parsed_bytes > MAX_HEAD_BYTES:
            self._reject()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_body_bytes = True
        if not self._is_rejected:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_message = False
        if not self._is_rejected:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._is_rejected:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        if not self._is_rejected:
            super().send_400_response(msg)

    def _reject(self) -> None:
        """Send the response, and close the connection once the client had time to read it.

        Closing a socket with unread data would reset the connection, and the response might be lost.
        """
        self._is_rejected = True
        if self.cycle is not None and not self.cycle.response_complete:
            # an earlier request of the connection is being answered: a response now would be taken for its own
            self.transport.abort()
            return
        self.transport.write(_RESPONSE)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._closing = asyncio.get_running_loop().call_later(_DISCARD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)
