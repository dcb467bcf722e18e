"""Answers that are more than bytes: late, dripping, hanging, lost, streamed. Each writes in its own time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Protocol, TypeAlias

import msgspec


class Wire(Protocol):
    """The client's connection as a play sees it."""

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        ...

    def drop(self) -> None:
        """Close the connection at once."""
        ...


#: writes one answer; cancelled when the client goes away
Play: TypeAlias = Callable[[Wire], Awaitable[None]]
Answer: TypeAlias = bytes | Play


def response(status: int, body: bytes = b"", headers: str = "", content_type: str = "application/json") -> bytes:
    """Return a whole HTTP/1.1 response; `headers` are further lines, each ended by CR LF."""
    body = b"" if status in (204, 304) else body
    known = {entry.value: entry.phrase for entry in HTTPStatus}
    kind = f"Content-Type: {content_type}\r\n" if body else ""
    length = "" if status in (204, 304) else f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} {known.get(status, 'Unknown')}\r\n{kind}{headers}{length}\r\n".encode("latin-1") + body


def json_response(status: int, value: object) -> bytes:
    """Return a response whose body is the value as JSON."""
    return response(status, msgspec.json.encode(value))


async def hang(wire: Wire) -> None:  # noqa: ARG001  # every play gets it
    """Never answer; ends when the client gives up."""
    await asyncio.get_running_loop().create_future()


async def lose(wire: Wire) -> None:
    """Drop the connection without an answer."""
    wire.drop()


def delayed(answer: bytes, milliseconds: int) -> Play:
    """Answer after a while."""

    async def play(wire: Wire) -> None:
        await asyncio.sleep(milliseconds / 1000)
        wire.write(answer)

    return play


def dripped(answer: bytes, seconds: float) -> Play:
    """Answer one byte at a time, `seconds` apart."""

    async def play(wire: Wire) -> None:
        for at in range(len(answer)):
            wire.write(answer[at : at + 1])
            await asyncio.sleep(seconds)

    return play


def streamed(chunks: Iterator[bytes], content_type: str) -> Play:
    """Answer with chunks as they are made, no faster than the client reads."""

    async def play(wire: Wire) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.write(head.encode("latin-1"))
        for chunk in chunks:
            wire.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await wire.drain()
        wire.write(b"0\r\n\r\n")

    return play
