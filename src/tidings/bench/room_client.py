"""A WebSocket client for benchmarks: joins a room, answers heartbeats, and uses little memory per connection."""

import asyncio
import base64
import os
import struct
from typing import cast

#: opcodes of frames (RFC 6455 §5.2)
_TEXT, _CLOSE = 0x81, 0x88
_ANSWER = b"{}"
_HEAD_END = b"\r\n\r\n"


class RoomClient(asyncio.Protocol):
    """One connection. `joined` is set with the first message, or fails with the connection."""

    def __init__(self, host: str, path: str) -> None:
        self._host = host
        self._path = path
        self._buffer = b""
        self._is_open = False
        self._transport: asyncio.Transport | None = None
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # not an instance of asyncio.Transport with uvloop
        self._transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._transport.write(request.encode())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, end, rest = self._buffer.partition(_HEAD_END)
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._fail(head.partition(b"\r\n")[0].decode())
                return
            self._is_open, self._buffer = True, rest
        while (message := self._read_frame()) is not None:
            opcode, payload = message
            if opcode == _CLOSE:
                self._fail(f"closed with code {struct.unpack('!H', payload[:2])[0] if payload else 1005}")
            elif b'"ping"' in payload:
                self._write_frame(_TEXT, _ANSWER)
            elif not self.joined.done():
                self.joined.set_result(None)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._fail("the connection was lost")
        if not self.closed.done():
            self.closed.set_result(None)

    def leave(self) -> None:
        """Close the connection cleanly."""
        self._write_frame(_CLOSE, struct.pack("!H", 1000))

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _read_frame(self) -> tuple[int, bytes] | None:
        """Return opcode and payload of the next complete frame. A server does not mask, and sends short messages."""
        if len(self._buffer) < 2:
            return None
        length, start = self._buffer[1], 2
        if length == 126:
            if len(self._buffer) < 4:
                return None
            length, start = struct.unpack("!H", self._buffer[2:4])[0], 4
        if len(self._buffer) < start + length:
            return None
        opcode, payload = self._buffer[0], self._buffer[start : start + length]
        self._buffer = self._buffer[start + length :]
        return opcode, payload

    def _write_frame(self, opcode: int, payload: bytes) -> None:
        # the mask of zeros is a valid one (RFC 6455 §5.3 asks for unpredictable ones to protect proxies)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes((opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload)

    def _fail(self, reason: str) -> None:
        if not self.joined.done():
            self.joined.set_exception(ConnectionError(reason))
            # a client whose join nobody awaits any more
            self.joined.exception()


async def join_room(host: str, port: int, path: str) -> RoomClient:
    """Return a client that has joined. Raises OSError if the server refuses."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: RoomClient(f"{host}:{port}", path), host, port)
    await client.joined
    return client
