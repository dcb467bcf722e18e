"""HTTP/2 over TLS: one connection carries everything in flight. The server speaks just enough of RFC 9113 to tell."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from tidings.channels.webpush.answer import Answer, NoAnswer
from tidings.channels.webpush.endpoints import EndpointPolicy, Origin
from tidings.channels.webpush.transport import Limits, Transport

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler, ssl.SSLContext], Awaitable[int]]
Tls = tuple[ssl.SSLContext, Path]

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
#: `:status: 201` as a literal with the name of static entry 8 (RFC 7541 §6.2.2)
STATUS_201 = b"\x08\x03201"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Http2Server:
    """Answers the first request of each connection at once, the others when `together` of them wait."""

    def __init__(self, together: int) -> None:
        self.together = together
        self.connections = 0
        self.requests = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        assert await reader.readexactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        writer.write(frame(SETTINGS, 0, 0, b"\x00\x03" + (1000).to_bytes(4, "big")))
        waiting: list[int] = []
        answered = False
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == SETTINGS and not flags & ACK:
                writer.write(frame(SETTINGS, ACK, 0))
            if kind == PING and not flags & ACK:
                writer.write(frame(PING, ACK, 0, payload))
            if kind == DATA and payload:
                writer.write(frame(WINDOW_UPDATE, 0, 0, len(payload).to_bytes(4, "big")))
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.requests += 1
                waiting.append(stream)
            if waiting and (not answered or len(waiting) == self.together):
                answered = True
                writer.writelines(frame(HEADERS, END_HEADERS | END_STREAM, number, STATUS_201) for number in waiting)
                waiting.clear()


async def home(_origin: Origin) -> tuple[str, ...]:
    return ("127.0.0.1",)


async def test_two_hundred_requests_are_in_flight_on_one_connection(serve: Serve, tls: Tls) -> None:
    context, ca_file = tls
    server = Http2Server(together=200)
    port = await serve(server.handle, context)
    url = f"https://push.test:{port}/push/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(ca_pem=ca_file.read_bytes(), limits=Limits(total=10), resolver=home)
    # 201 at once on a cold client: the first one opens the connection, the rest join it
    answers = await asyncio.gather(*(transport.post(origin, url, {"TTL": "60"}, bytes(500)) for _ in range(201)))
    await transport.close()
    assert answers == [Answer(201)] * 201
    assert (server.connections, server.requests) == (1, 201)


async def test_without_the_extra_authority_nothing_is_sent(serve: Serve, tls: Tls) -> None:
    context, _ = tls
    server = Http2Server(together=1)
    port = await serve(server.handle, context)
    url = f"https://push.test:{port}/push/x"
    transport = Transport(limits=Limits(connect=2, total=4), resolver=home)
    answer = await transport.post(EndpointPolicy.parse(f"push.test:{port}").check(url), url, {}, b"x")
    await transport.close()
    assert isinstance(answer, NoAnswer)
    assert server.requests == 0


async def test_the_certificate_must_be_for_the_name_not_the_address(serve: Serve, tls: Tls) -> None:
    context, ca_file = tls
    server = Http2Server(together=1)
    port = await serve(server.handle, context)
    url = f"https://other.test:{port}/push/x"
    transport = Transport(ca_pem=ca_file.read_bytes(), limits=Limits(connect=2, total=4), resolver=home)
    answer = await transport.post(EndpointPolicy.parse(f"other.test:{port}").check(url), url, {}, b"x")
    await transport.close()
    assert isinstance(answer, NoAnswer)
    assert server.requests == 0
