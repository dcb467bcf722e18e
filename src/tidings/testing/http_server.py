"""A real HTTP/1.1 server on 127.0.0.1 whose answers a test chooses."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import msgspec

_MAX_HEAD = 65_536


class ReceivedRequest(msgspec.Struct, frozen=True):
    """A request that the server received."""

    method: str
    #: path and query as sent
    target: str
    #: lower-case names
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @property
    def form(self) -> Mapping[str, str]:
        """The fields of a form body."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


class Reply(msgspec.Struct, frozen=True):
    """A response of the server."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class Hang(msgspec.Struct, frozen=True):
    """The request is read and never answered."""


class Disconnect(msgspec.Struct, frozen=True):
    """The request is read and the connection closed without an answer."""


Answer = Reply | Hang | Disconnect
Handler = Callable[[ReceivedRequest], Awaitable[Answer] | Answer]


class HttpServer:
    """Runs a handler for each request. Use it as `async with HttpServer(handler) as server`."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls` is the context of a server for https; `url` is then still the one for http."""
        self._handler = handler
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        #: every request, in the order of arrival
        self.requests: list[ReceivedRequest] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def authority(self) -> str:
        """The server as `host:port`."""
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0, limit=_MAX_HEAD, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and close every connection, also those of requests that are not answered."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await _read_request(reader)
                self.requests.append(request)
                result = self._handler(request)
                answer = result if isinstance(result, Answer) else await result
                if isinstance(answer, Hang):
                    # returns when the client gives up
                    await reader.read()
                    return
                if isinstance(answer, Disconnect):
                    return
                writer.write(_serialize(answer))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            # an orderly close would wait for a client that does not read
            writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader) -> ReceivedRequest:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:]) if name}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return ReceivedRequest(method, target, headers, body)


def _serialize(reply: Reply) -> bytes:
    headers = {"Content-Length": str(len(reply.body)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + reply.body
