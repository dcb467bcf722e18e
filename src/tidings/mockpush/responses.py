"""HTTP responses of the mock push service: plain, delayed, dripping, hanging, dropped and streamed ones; refusals."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, TypeAlias

import msgspec


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for which a message is refused: HTTP status, a stable reason code and a sentence for people."""

    status: int
    reason: str
    message: str


class ClientConnection(Protocol):
    """The part of a client connection that slow responses use."""

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    async def drain(self) -> None:
        """Wait until the client has received most of the written data."""
        ...

    def drop(self) -> None:
        """Close the connection at once."""
        ...


#: writes one response; cancelled when the client disconnects
SlowResponse: TypeAlias = Callable[[ClientConnection], Awaitable[None]]
MockResponse: TypeAlias = bytes | SlowResponse


def build_response(status: int, body: bytes = b"", headers: str = "", content_type: str = "application/json") -> bytes:
    """Return a complete HTTP/1.1 response; `headers` are additional lines, each terminated by CR LF."""
    body = b"" if status in (204, 304) else body
    phrases = {entry.value: entry.phrase for entry in HTTPStatus}
    type_line = f"Content-Type: {content_type}\r\n" if body else ""
    length_line = "" if status in (204, 304) else f"Content-Length: {len(body)}\r\n"
    head = f"HTTP/1.1 {status} {phrases.get(status, 'Unknown')}\r\n{type_line}{headers}{length_line}\r\n"
    return head.encode("latin-1") + body


def build_json_response(status: int, value: object) -> bytes:
    """Return a response whose body is the value as JSON."""
    return build_response(status, msgspec.json.encode(value))


async def hang(connection: ClientConnection) -> None:  # noqa: ARG001  # the signature of SlowResponse
    """Never respond; ends when the client disconnects."""
    await asyncio.get_running_loop().create_future()


async def drop_connection(connection: ClientConnection) -> None:
    """Close the connection without a response."""
    connection.drop()


def delay_response(response: bytes, milliseconds: int) -> SlowResponse:
    """Send the response after a delay."""

    async def respond(connection: ClientConnection) -> None:
        await asyncio.sleep(milliseconds / 1000)
        connection.write(response)

    return respond


def drip_response(response: bytes, seconds: float) -> SlowResponse:
    """Send the response one byte at a time, `seconds` apart."""

    async def respond(connection: ClientConnection) -> None:
        for index in range(len(response)):
            connection.write(response[index : index + 1])
            await asyncio.sleep(seconds)

    return respond


def stream_response(chunks: Iterator[bytes], content_type: str) -> SlowResponse:
    """Send chunks as they are produced, no faster than the client reads."""

    async def respond(connection: ClientConnection) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.write(head.encode("latin-1"))
        for chunk in chunks:
            connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await connection.drain()
        connection.write(b"0\r\n\r\n")

    return respond
