"""HTTP/1.1 load client on raw keep-alive connections. It uses a fraction of the CPU time of the server under test."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from tidings.errors import TidingsError


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Figures of a series of requests."""

    #: from the first request to the last response
    seconds: float
    #: latency of each request in milliseconds, in no particular order
    latencies_ms: Sequence[float]


def build_post_request(
    path: str, body: bytes, *, key: str, media_type: str = "application/json", idempotency_key: str | None = None
) -> bytes:
    """Return the bytes of a request. Arguments: key — API key; idempotency_key — value of `Idempotency-Key`."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body)}",
    ]
    if idempotency_key is not None:
        lines.append(f"Idempotency-Key: {idempotency_key}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def build_get_request(path: str, *, key: str) -> bytes:
    """Return the bytes of a request. Arguments: key — API key, or token of a user."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def send_all(base_url: str, requests: Sequence[bytes], *, clients: int) -> LoadResult:
    """Send all requests over `clients` connections. Each connection has one request in flight.

    Raises TidingsError for a response other than 2xx, or a closed connection.
    """
    address = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    host, port = address.hostname or "", address.port or 80
    connections = [
        (await loop.create_connection(_Connection, host, port))[1] for _ in range(min(clients, len(requests)))
    ]
    queue = iter(requests)
    latencies_ms: list[float] = []
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(_send_from_queue(connection, queue, latencies_ms))
    except* TidingsError as errors:
        raise errors.exceptions[0] from None
    finally:
        for connection in connections:
            connection.close()
    return LoadResult(time.perf_counter() - started, latencies_ms)


async def _send_from_queue(connection: "_Connection", queue: Iterator[bytes], latencies_ms: list[float]) -> None:
    for request in queue:
        started = time.perf_counter()
        status, body = await connection.call(request)
        if status // 100 != 2:
            raise TidingsError(f"the server responded with {status}: {body[:500].decode(errors='replace')}")
        latencies_ms.append((time.perf_counter() - started) * 1000)


class _Connection(asyncio.Protocol):
    """One connection with one request at a time.

    It parses only responses with a `Content-Length`, which the server under test always sends.
    """

    def __init__(self) -> None:
        self._received = bytearray()
        self._response: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(TidingsError(f"the server closed the connection: {exc or 'no response'}"))

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return the status and body of the response."""
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._response is None:
            return
        head = bytes(self._received[:end]).lower()
        _, found, rest = head.partition(b"content-length: ")
        length = int(rest.partition(b"\r\n")[0]) if found else 0
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        self._received.clear()
        self._response.set_result((int(head[9:12]), body))

    def close(self) -> None:
        self._transport.close()
