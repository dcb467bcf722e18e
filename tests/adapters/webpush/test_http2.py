"""HTTP/2 over TLS: one connection carries all requests in flight. The server implements a subset of RFC 9113."""

import asyncio
import shutil
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy, Origin
from tidings.channels.webpush.push_exchange import NoResponse, PushResponse
from tidings.channels.webpush.transport import Transport, TransportLimits
from tidings.testing.polling import eventually
from tidings.testing.ports import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler, ssl.SSLContext], Awaitable[int]]
Tls = tuple[ssl.SSLContext, Path]

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
#: error codes (RFC 9113 §7)
NO_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 0, 7, 11
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
#: `:status: 201` as a literal with the name of static entry 8 (RFC 7541 §6.2.2)
STATUS_201 = b"\x08\x03201"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Http2Server:
    """Answers the first request of each connection at once, the others once `together` of them are waiting."""

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


async def resolve_to_loopback(_origin: Origin) -> tuple[str, ...]:
    return ("127.0.0.1",)


async def test_two_hundred_requests_are_in_flight_on_one_connection(serve: Serve, tls: Tls) -> None:
    context, ca_file = tls
    server = Http2Server(together=200)
    port = await serve(server.handle, context)
    url = f"https://push.test:{port}/push/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(
        ca_pem=ca_file.read_bytes(), limits=TransportLimits(total_timeout=10), resolver=resolve_to_loopback
    )
    # 201 concurrent requests on a new client: the first opens the connection, the others share it
    answers = await asyncio.gather(*(transport.post(origin, url, {"TTL": "60"}, bytes(500)) for _ in range(201)))
    await transport.close()
    assert answers == [PushResponse(201)] * 201
    assert (server.connections, server.requests) == (1, 201)


async def test_without_the_extra_ca_nothing_is_sent(serve: Serve, tls: Tls) -> None:
    context, _ = tls
    server = Http2Server(together=1)
    port = await serve(server.handle, context)
    url = f"https://push.test:{port}/push/x"
    transport = Transport(limits=TransportLimits(connect_timeout=2, total_timeout=4), resolver=resolve_to_loopback)
    answer = await transport.post(EndpointPolicy.parse(f"push.test:{port}").check(url), url, {}, b"x")
    await transport.close()
    assert isinstance(answer, NoResponse)
    assert server.requests == 0


async def test_the_certificate_must_match_the_host_name_not_the_address(serve: Serve, tls: Tls) -> None:
    context, ca_file = tls
    server = Http2Server(together=1)
    port = await serve(server.handle, context)
    url = f"https://other.test:{port}/push/x"
    transport = Transport(
        ca_pem=ca_file.read_bytes(),
        limits=TransportLimits(connect_timeout=2, total_timeout=4),
        resolver=resolve_to_loopback,
    )
    answer = await transport.post(EndpointPolicy.parse(f"other.test:{port}").check(url), url, {}, b"x")
    await transport.close()
    assert isinstance(answer, NoResponse)
    assert server.requests == 0


class RecyclingServer:
    """Processes `per_connection` requests, `streams` at a time, then sends GOAWAY and closes, as nginx does."""

    def __init__(self, per_connection: int, streams: int, code: int = NO_ERROR) -> None:
        self.per_connection = per_connection
        self.streams = streams
        self.code = code
        self.connections = 0
        #: bodies of the requests that were answered
        self.processed: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        assert await reader.readexactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        writer.write(frame(SETTINGS, 0, 0, b"\x00\x03" + self.streams.to_bytes(4, "big")))
        bodies: dict[int, bytes] = {}
        answered = 0
        while answered < self.per_connection:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == SETTINGS and not flags & ACK:
                writer.write(frame(SETTINGS, ACK, 0))
            if kind == DATA:
                bodies[stream] = bodies.get(stream, b"") + payload
                writer.write(frame(WINDOW_UPDATE, 0, 0, max(1, len(payload)).to_bytes(4, "big")))
            if kind == DATA and flags & END_STREAM:
                self.processed.append(bodies.pop(stream))
                answered += 1
                if answered == self.per_connection:
                    # before the last answer, so that no later stream is opened
                    writer.write(frame(GOAWAY, 0, 0, stream.to_bytes(4, "big") + self.code.to_bytes(4, "big")))
                writer.write(frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_201))
        # the answer to a ping shows that the client has read all responses, which a close would otherwise discard
        writer.write(frame(PING, 0, 0, bytes(8)))
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == PING and head[4] & ACK:
                return


async def test_requests_that_a_goaway_leaves_unprocessed_are_repeated_at_once(serve: Serve, tls: Tls) -> None:
    context, ca_file = tls
    server = RecyclingServer(per_connection=20, streams=4)
    port = await serve(server.handle, context)
    url = f"https://push.test:{port}/push/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(ca_pem=ca_file.read_bytes(), resolver=resolve_to_loopback)
    answers = await asyncio.gather(*(transport.post(origin, url, {"TTL": "60"}, b"%d" % n) for n in range(100)))
    await transport.close()
    assert answers == [PushResponse(201)] * 100
    assert sorted(server.processed) == sorted(b"%d" % n for n in range(100)), "each exactly once"
    assert server.connections >= 5


class RefusingServer(Http2Server):
    """Refuses every stream without processing it."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        writer.write(frame(SETTINGS, 0, 0))
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == SETTINGS and not flags & ACK:
                writer.write(frame(SETTINGS, ACK, 0))
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                self.requests += 1
                writer.write(frame(RST_STREAM, 0, stream, REFUSED_STREAM.to_bytes(4, "big")))


async def test_a_service_that_refuses_every_stream_is_asked_a_bounded_number_of_times(serve: Serve, tls: Tls) -> None:
    context, ca_file = tls
    server = RefusingServer(together=1)
    port = await serve(server.handle, context)
    url = f"https://push.test:{port}/push/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(
        ca_pem=ca_file.read_bytes(), limits=TransportLimits(total_timeout=1), resolver=resolve_to_loopback
    )
    answer = await transport.post(origin, url, {"TTL": "60"}, b"x")
    await transport.close()
    assert isinstance(answer, NoResponse)
    assert answer.is_unprocessed
    assert 2 <= server.requests <= 200


async def test_a_service_that_closes_because_of_an_error_is_not_asked_again(serve: Serve, tls: Tls) -> None:
    context, ca_file = tls
    server = RecyclingServer(per_connection=1, streams=100, code=ENHANCE_YOUR_CALM)
    port = await serve(server.handle, context)
    url = f"https://push.test:{port}/push/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(
        ca_pem=ca_file.read_bytes(), limits=TransportLimits(total_timeout=2), resolver=resolve_to_loopback
    )
    answers = await asyncio.gather(*(transport.post(origin, url, {"TTL": "60"}, b"%d" % n) for n in range(20)))
    await transport.close()
    failures = [answer for answer in answers if isinstance(answer, NoResponse)]
    assert failures
    assert not any(failure.is_unprocessed for failure in failures)


NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100; http2_max_concurrent_streams 8;
  server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {tls}/server.pem; ssl_certificate_key {tls}/server.pem;
    location / {{ return 201; }} }}
}}
"""


@pytest.mark.extended
async def test_nginx_with_a_hundred_requests_per_connection_and_eight_streams_takes_every_request(
    tls: Tls, tmp_path: Path
) -> None:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, port=port, tls=tls[1].parent))
    server = await asyncio.create_subprocess_exec(
        nginx, "-p", tmp_path, "-c", config, stderr=asyncio.subprocess.DEVNULL
    )
    url = f"https://push.test:{port}/push/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(ca_pem=tls[1].read_bytes(), resolver=resolve_to_loopback)

    async def is_up() -> bool:
        return isinstance(await transport.post(origin, url, {"TTL": "60"}, b"x"), PushResponse)

    async def post_some() -> list[PushResponse | NoResponse]:
        return [await transport.post(origin, url, {"TTL": "60"}, bytes(500)) for _ in range(10)]

    try:
        await eventually(is_up, within=20)
        answers = [one for some in await asyncio.gather(*(post_some() for _ in range(100))) for one in some]
    finally:
        await transport.close()
        server.terminate()
        await server.wait()
    assert {type(answer) for answer in answers} == {PushResponse}
    assert {answer.status for answer in answers if isinstance(answer, PushResponse)} == {201}
