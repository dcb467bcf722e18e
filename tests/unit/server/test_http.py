"""A stop: requests in progress end, WebSockets are told to come back, a second signal waits for nobody."""

import asyncio
import base64
import os
import socket
import time

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tidings.server.http import HttpServer
from tidings.server.listen import bound
from tidings.server.stop import Stop

#: "service restart" (RFC 6455 §7.4, IANA registry): the client may come back at once
SERVICE_RESTART = 1012


class Door:
    """A server with a slow route and a socket, in this process."""

    def __init__(self, *, deadline: float = 3.0, websockets: bool = True) -> None:
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.stop = Stop()
        app = Starlette(routes=[Route("/slow", self._slow), WebSocketRoute("/socket", self._socket)])
        listener = bound("TIDINGS_PORT", "127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        self.ready = asyncio.Event()
        server = HttpServer(app, listener, self.ready.set, deadline=deadline, websockets=websockets)
        self.running = asyncio.create_task(server.run_until(self.stop.asked, self.stop.hurry))

    async def _slow(self, _: Request) -> PlainTextResponse:
        self.begun.set()
        await self.goes_on.wait()
        return PlainTextResponse("done")

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive()

    async def asks(self, request: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self.ready.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request.replace("\n", "\r\n").encode())
        await writer.drain()
        return reader, writer


async def test_a_request_in_progress_is_answered() -> None:
    door = Door()
    reader, writer = await door.asks("GET /slow HTTP/1.1\nHost: x\nConnection: close\n\n")
    await door.begun.wait()
    door.stop.ask()
    door.goes_on.set()
    assert (await reader.read()).endswith(b"done")
    await door.running
    writer.close()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", door.port))


async def test_a_request_that_does_not_end_is_cut_off() -> None:
    door = Door(deadline=0.5)
    _, writer = await door.asks("GET /slow HTTP/1.1\nHost: x\n\n")
    await door.begun.wait()
    started = time.monotonic()
    door.stop.ask()
    await door.running
    assert time.monotonic() - started < 3
    writer.close()


async def test_a_second_signal_waits_for_nobody() -> None:
    door = Door()
    _, writer = await door.asks("GET /slow HTTP/1.1\nHost: x\n\n")
    await door.begun.wait()
    started = time.monotonic()
    door.stop.ask()
    door.stop.ask()
    await door.running
    assert time.monotonic() - started < 1.5
    writer.close()


async def test_sockets_are_closed_with_service_restart() -> None:
    door = Door()
    key = base64.b64encode(os.urandom(16)).decode()
    reader, writer = await door.asks(
        "GET /socket HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n"
        f"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: {key}\n\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    door.stop.ask()
    # an unmasked close frame: FIN and opcode 8, length, then the code (RFC 6455 §5.5.1)
    opcode, length = await reader.readexactly(2)
    assert opcode == 0x88
    code = int.from_bytes((await reader.readexactly(length))[:2], "big")
    assert code == SERVICE_RESTART
    writer.close()
    await door.running


async def test_without_sockets_nothing_is_upgraded_or_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(websockets=False)
    reader, writer = await door.asks("GET /socket HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
    writer.close()
    door.stop.ask()
    await door.running
    assert [record.message for record in caplog.records if record.name == "uvicorn.error"] == [
        "Unsupported upgrade request."
    ]


async def test_time_for_an_end_runs_from_the_first_ask() -> None:
    stop = Stop()
    stop.ask()
    assert 0.9 < stop.left(1.0) <= 1.0
    assert not stop.hurry.is_set()
    stop.ask()
    assert stop.hurry.is_set()
    assert stop.left(0.0) == 0.0
