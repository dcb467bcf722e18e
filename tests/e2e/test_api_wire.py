"""The API over a raw socket: behaviour that HTTP clients hide."""

import asyncio
from pathlib import Path

import pytest
from tests.support.server import ADMIN_KEY, TidingsServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _raw(server: TidingsServer, head: str, body: bytes = b"", *, at_most: int = 0) -> tuple[bytes, int]:
    """Send a raw request with `body` repeated up to `at_most` bytes. Return the response and the bytes sent."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    sent = 0
    try:
        while sent < at_most:
            writer.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
            await writer.drain()
            sent += len(body)
    except ConnectionError:
        pass  # the server closed the connection while the body was being sent, as intended
    try:
        async with asyncio.timeout(20):
            response = await reader.read(65_536)
    except ConnectionError:
        response = b""
    writer.close()
    return response, sent


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def test_a_chunked_body_of_a_hundred_megabytes_is_cut_off(server: TidingsServer) -> None:
    before = _resident_kib(server.pid)
    head = (
        "POST /api/notifications HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nContent-Type: application/json\n"
        f"Authorization: Bearer {ADMIN_KEY}"
    )
    response, sent = await _raw(server, head, b" " * 65_536, at_most=100_000_000)
    assert sent < 50_000_000
    assert not response or response.startswith(b"HTTP/1.1 413")
    assert _resident_kib(server.pid) - before < 50_000


async def test_an_excessive_content_length_is_refused_before_the_body(server: TidingsServer) -> None:
    head = "POST /api/notifications HTTP/1.1\nHost: x\nContent-Length: 5000000\nContent-Type: application/json"
    response, _ = await _raw(server, head)
    assert response.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in response
    assert b"connection: close" in response.lower()


async def test_compressed_bodies_are_not_inflated(server: TidingsServer) -> None:
    head = (
        "POST /api/notifications HTTP/1.1\nHost: x\nContent-Length: 5\nContent-Encoding: gzip\n"
        "Content-Type: application/json\nConnection: close"
    )
    response, _ = await _raw(server, head + "\n\nabcde")
    assert response.startswith(b"HTTP/1.1 415")


async def test_responses_do_not_name_the_server_software(server: TidingsServer) -> None:
    response, _ = await _raw(server, "GET /health/live HTTP/1.1\nHost: x\nConnection: close")
    assert response.startswith(b"HTTP/1.1 200")
    assert b"server:" not in response.lower()
