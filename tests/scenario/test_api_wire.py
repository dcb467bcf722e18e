"""The API over a real socket: what only shows there."""

import asyncio
from pathlib import Path

import pytest

from tidings.testing.server import ADMIN_KEY, TidingsServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _raw(server: TidingsServer, head: str, body: bytes = b"", *, at_most: int = 0) -> tuple[bytes, int]:
    """Send a request byte by byte of ours; body is repeated up to `at_most` bytes. Returns the answer, bytes sent."""
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
        pass  # refused while we were still sending: what is tested
    try:
        async with asyncio.timeout(20):
            answer = await reader.read(65_536)
    except ConnectionError:
        answer = b""
    writer.close()
    return answer, sent


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def test_a_hundred_megabytes_in_chunks_are_cut_off(server: TidingsServer) -> None:
    before = _resident_kib(server.pid)
    head = (
        "POST /api/notifications HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nContent-Type: application/json\n"
        f"Authorization: Bearer {ADMIN_KEY}"
    )
    answer, sent = await _raw(server, head, b" " * 65_536, at_most=100_000_000)
    assert sent < 50_000_000
    assert not answer or answer.startswith(b"HTTP/1.1 413")
    assert _resident_kib(server.pid) - before < 50_000


async def test_a_declared_size_is_refused_before_a_byte_of_it(server: TidingsServer) -> None:
    head = "POST /api/notifications HTTP/1.1\nHost: x\nContent-Length: 5000000\nContent-Type: application/json"
    answer, _ = await _raw(server, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer
    assert b"connection: close" in answer.lower()


async def test_compressed_bodies_are_not_inflated(server: TidingsServer) -> None:
    head = (
        "POST /api/notifications HTTP/1.1\nHost: x\nContent-Length: 5\nContent-Encoding: gzip\n"
        "Content-Type: application/json\nConnection: close"
    )
    answer, _ = await _raw(server, head + "\n\nabcde")
    assert answer.startswith(b"HTTP/1.1 415")


async def test_answers_do_not_name_the_software(server: TidingsServer) -> None:
    answer, _ = await _raw(server, "GET /health/live HTTP/1.1\nHost: x\nConnection: close")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"server:" not in answer.lower()
