"""Callers on raw keep-alive connections (HTTP/1.1): they cost a fraction of what the server under test does."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from tidings.errors import TidingsError


@dataclass(frozen=True, slots=True)
class Answered:
    """What a round of calls came to."""

    #: from the first request to the last answer
    seconds: float
    #: of each call, in milliseconds, in no order
    took_ms: Sequence[float]


def post(path: str, body: bytes, *, key: str, media_type: str = "application/json", once: str | None = None) -> bytes:
    """Return the bytes of a request. key: the API key; once: its `Idempotency-Key`."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body)}",
    ]
    if once is not None:
        lines.append(f"Idempotency-Key: {once}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def call_all(base_url: str, requests: Sequence[bytes], *, clients: int) -> Answered:
    """Send all requests over `clients` connections, each the next one as soon as the last is answered.

    Raises TidingsError for an answer other than 2xx, or a connection that ends.
    """
    address = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    host, port = address.hostname or "", address.port or 80
    opened = [(await loop.create_connection(_Connection, host, port))[1] for _ in range(min(clients, len(requests)))]
    left = iter(requests)
    took_ms: list[float] = []
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for connection in opened:
                group.create_task(_caller(connection, left, took_ms))
    except* TidingsError as failed:
        raise failed.exceptions[0] from None
    finally:
        for connection in opened:
            connection.close()
    return Answered(time.perf_counter() - started, took_ms)


async def _caller(connection: "_Connection", left: Iterator[bytes], took_ms: list[float]) -> None:
    for request in left:
        started = time.perf_counter()
        status, body = await connection.call(request)
        if status // 100 != 2:
            raise TidingsError(f"the server answered {status}: {body[:500].decode(errors='replace')}")
        took_ms.append((time.perf_counter() - started) * 1000)


class _Connection(asyncio.Protocol):
    """One connection, one call at a time. Understands answers with a `Content-Length`, which is all this server sends
    to a POST."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TidingsError(f"the server closed the connection: {exc or 'no answer'}"))

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = bytes(self._received[:end]).lower()
        _, found, rest = head.partition(b"content-length: ")
        length = int(rest.partition(b"\r\n")[0]) if found else 0
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        self._received.clear()
        self._answer.set_result((int(head[9:12]), body))

    def close(self) -> None:
        self._transport.close()
