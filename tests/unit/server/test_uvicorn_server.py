"""Shutdown of the HTTP server: open requests end, WebSockets close, a second signal forces it."""

import asyncio
import base64
import os
import socket
import time

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tidings.server.http_protocol import MAX_HEAD_BYTES
from tidings.server.shutdown import Shutdown
from tidings.server.sockets import bind
from tidings.server.uvicorn_server import HttpServer

#: "service restart" (RFC 6455 §7.4, IANA registry): the client may come back at once
SERVICE_RESTART = 1012


class ServerUnderTest:
    """A server with a slow route and a WebSocket, in this process."""

    def __init__(self, *, deadline: float = 3.0, websockets: bool = True) -> None:
        self.started = asyncio.Event()
        self.unblocked = asyncio.Event()
        self.shutdown = Shutdown()
        routes = [
            Route("/slow", self._slow),
            Route("/size", self._size, methods=["GET", "POST"]),
            WebSocketRoute("/socket", self._socket),
        ]
        app = Starlette(routes=routes)
        listener = bind("TIDINGS_PORT", "127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        self.ready = asyncio.Event()
        http_server = HttpServer(app, listener, self.ready.set, deadline=deadline, websockets=websockets)
        self.running = asyncio.create_task(http_server.run_until(self.shutdown.requested, self.shutdown.forced))

    async def _slow(self, _: Request) -> PlainTextResponse:
        self.started.set()
        await self.unblocked.wait()
        return PlainTextResponse("done")

    async def _size(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{len(await request.body())} bytes")

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive()

    async def send_raw(self, *chunks: bytes) -> bytes:
        """Send chunks as they are and return everything that the server sends until it closes the connection."""
        await self.ready.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for chunk in chunks:
            try:
                writer.write(chunk)
                await writer.drain()
            except ConnectionError:
                break  # the server has closed the connection, as it may
            # a chunk of its own for the server
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        except ConnectionError:
            return b""  # the server aborted the connection
        finally:
            writer.close()

    async def stop(self) -> None:
        self.shutdown.request()
        await self.running

    async def send(self, request: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self.ready.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request.replace("\n", "\r\n").encode())
        await writer.drain()
        return reader, writer


async def test_a_request_in_progress_is_completed() -> None:
    server = ServerUnderTest()
    reader, writer = await server.send("GET /slow HTTP/1.1\nHost: x\nConnection: close\n\n")
    await server.started.wait()
    server.shutdown.request()
    server.unblocked.set()
    assert (await reader.read()).endswith(b"done")
    await server.running
    writer.close()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", server.port))


async def test_a_request_that_does_not_end_is_cut_off() -> None:
    server = ServerUnderTest(deadline=0.5)
    _, writer = await server.send("GET /slow HTTP/1.1\nHost: x\n\n")
    await server.started.wait()
    started = time.monotonic()
    server.shutdown.request()
    await server.running
    assert time.monotonic() - started < 3
    writer.close()


async def test_a_second_signal_closes_all_connections() -> None:
    server = ServerUnderTest()
    _, writer = await server.send("GET /slow HTTP/1.1\nHost: x\n\n")
    await server.started.wait()
    started = time.monotonic()
    server.shutdown.request()
    server.shutdown.request()
    await server.running
    assert time.monotonic() - started < 1.5
    writer.close()


async def test_sockets_are_closed_with_service_restart() -> None:
    server = ServerUnderTest()
    key = base64.b64encode(os.urandom(16)).decode()
    reader, writer = await server.send(
        "GET /socket HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n"
        f"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: {key}\n\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    server.shutdown.request()
    # an unmasked close frame: FIN and opcode 8, length, then the code (RFC 6455 §5.5.1)
    opcode, length = await reader.readexactly(2)
    assert opcode == 0x88
    code = int.from_bytes((await reader.readexactly(length))[:2], "big")
    assert code == SERVICE_RESTART
    writer.close()
    await server.running


async def test_without_websockets_no_connection_is_upgraded(caplog: pytest.LogCaptureFixture) -> None:
    server = ServerUnderTest(websockets=False)
    reader, writer = await server.send("GET /socket HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
    writer.close()
    server.shutdown.request()
    await server.running
    assert [record.message for record in caplog.records if record.name == "uvicorn.error"] == [
        "Unsupported upgrade request."
    ]


async def test_the_shutdown_deadline_runs_from_the_first_request() -> None:
    shutdown = Shutdown()
    shutdown.request()
    assert 0.9 < shutdown.remaining(1.0) <= 1.0
    assert not shutdown.forced.is_set()
    shutdown.request()
    assert shutdown.forced.is_set()
    assert shutdown.remaining(0.0) == 0.0


CLOSE = b"Host: x\r\nConnection: close\r\n"
#: a head of the largest size, up to its last header
FILLED = b"GET /size HTTP/1.1\r\n" + CLOSE + b"X-Fill: " + b"a" * (MAX_HEAD_BYTES - 200)


async def test_a_head_within_the_limit_is_served() -> None:
    server = ServerUnderTest()
    whole = FILLED + b"\r\n\r\n"
    in_pieces = [whole[start : start + 1000] for start in range(0, len(whole), 1000)]
    for chunks in ([whole], in_pieces):
        assert (await server.send_raw(*chunks)).endswith(b"0 bytes")
    await server.stop()


@pytest.mark.parametrize(
    "chunks",
    [
        [FILLED + b"a" * 400 + b"\r\n\r\n"],
        [FILLED, b"a" * 400, b"\r\n\r\n"],
        # without an end
        [FILLED, *[b"a" * 4096] * 40],
        [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n"],
        [b"GET /size HTTP/1.1\r\n" + CLOSE + b"A: b\r\n" * 6000 + b"\r\n"],
        [b"GET /size HTTP/1.1\r\n" + CLOSE + b"A:\r\n" * 9000 + b"\r\n"],
        [b"POST /size HTTP/1.1\r\n" + CLOSE + b"Content-Length: 5\r\nX: " + b"a" * 40_000 + b"\r\n\r\nhello"],
        [b"GET /socket HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"],
    ],
    ids=["whole", "in pieces", "endless", "url", "many headers", "empty headers", "with a body", "websocket"],
)
async def test_a_head_beyond_the_limit_is_rejected(chunks: list[bytes]) -> None:
    server = ServerUnderTest()
    received = await server.send_raw(*chunks)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in head
    assert msgspec.json.decode(body)["code"] == "headers_too_large"
    await server.stop()


@pytest.mark.parametrize("size", [40_000, 400_000])
async def test_the_head_of_a_later_request_of_a_connection_is_limited(size: int) -> None:
    server = ServerUnderTest()
    first = b"GET /size HTTP/1.1\r\nHost: x\r\n\r\n"
    large = b"GET /size HTTP/1.1\r\nHost: x\r\nX: " + b"a" * size + b"\r\n\r\n"
    received = await server.send_raw(first, large)
    # the response to the first request, and at most the rejection of the second one
    assert received.startswith(b"HTTP/1.1 200 ") or not received
    assert received.count(b"HTTP/1.1 200 ") <= 1
    assert (await server.send_raw(first.replace(b"Host: x\r\n", CLOSE))).endswith(b"0 bytes")
    await server.stop()


@pytest.mark.parametrize(
    "rest",
    [b"1;" + b"x" * 400_000 + b"\r\na\r\n0\r\n\r\n", b"0\r\nX: " + b"x" * 400_000 + b"\r\n\r\n"],
    ids=["chunk extension", "trailer"],
)
async def test_what_surrounds_the_chunks_of_a_body_is_limited(rest: bytes) -> None:
    server = ServerUnderTest()
    head = b"POST /size HTTP/1.1\r\n" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = [rest[start : start + 10_000] for start in range(0, len(rest), 10_000)]
    assert b"200 OK" not in await server.send_raw(head, *pieces)
    await server.stop()


async def test_a_large_body_in_small_chunks_is_not_limited_by_it() -> None:
    server = ServerUnderTest()
    head = b"POST /size HTTP/1.1\r\n" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    received = await server.send_raw(head, *[b"64\r\n" + b"a" * 100 + b"\r\n"] * 2000, b"0\r\n\r\n")
    assert received.endswith(b"200000 bytes")
    await server.stop()
