"""The HTTP transport against well-behaved and misbehaving servers."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from tidings.channels.http.ssrf_guard import AddressRefused
from tidings.channels.webpush.endpoint_allowlist import EndpointPolicy, Origin
from tidings.channels.webpush.push_exchange import NoResponse, PushResponse
from tidings.channels.webpush.transport import Transport, TransportLimits
from tidings.errors import ConfigError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[int]]
ReadRequest = Callable[[asyncio.StreamReader], Awaitable[tuple[dict[str, str], bytes]]]

QUICK = TransportLimits(connect_timeout=1.0, total_timeout=0.6)
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


async def post(
    transport: Transport, port: int, path: str = "/push/x", body: bytes = b"sealed"
) -> PushResponse | NoResponse:
    url = f"http://127.0.0.1:{port}{path}"
    return await transport.post(EndpointPolicy.parse(f"127.0.0.1:{port}").check(url), url, {"TTL": "60"}, body)


async def test_a_request_has_the_headers_of_web_push(serve: Serve, read_request: ReadRequest) -> None:
    seen: list[tuple[dict[str, str], bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(CREATED)

    transport = Transport(limits=QUICK)
    port = await serve(handler)
    for _ in range(3):
        assert await post(transport, port, "/push/%2F?token=a%2fb") == PushResponse(201)
    await transport.close()
    headers, body = seen[0]
    assert body == b"sealed"
    assert headers == {
        ":path": "/push/%2F?token=a%2fb",
        "host": f"127.0.0.1:{port}",
        "ttl": "60",
        "content-length": "6",
        "accept": "*/*",
        "user-agent": "Tidings",
    }


async def test_consecutive_requests_share_a_connection(serve: Serve, read_request: ReadRequest) -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(CREATED)

    transport = Transport()
    port = await serve(handler)
    for _ in range(20):
        assert await post(transport, port) == PushResponse(201)
    await transport.close()
    assert connections == 1


async def test_concurrent_requests_are_limited(serve: Serve, read_request: ReadRequest) -> None:
    in_flight = max_in_flight = 0
    limit_reached = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal in_flight, max_in_flight
        while True:
            await read_request(reader)
            in_flight += 1
            max_in_flight = max(max_in_flight, in_flight)
            # the first request opens the connection; later answers wait until all eight slots are in use
            if in_flight == 8 or not transport_is_warm:
                limit_reached.set()
            await limit_reached.wait()
            in_flight -= 1
            writer.write(CREATED)

    transport_is_warm = False
    transport = Transport(limits=TransportLimits(max_in_flight=8))
    port = await serve(handler)
    assert await post(transport, port) == PushResponse(201)
    transport_is_warm = True
    limit_reached.clear()
    answers = await asyncio.gather(*(post(transport, port) for _ in range(100)))
    await transport.close()
    assert answers == [PushResponse(201)] * 100
    assert max_in_flight == 8


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_response_and_is_never_followed(
    serve: Serve, read_request: ReadRequest, status: int
) -> None:
    visits = 0

    async def trap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1

    trap_port = await serve(trap)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        location = f"Location: http://127.0.0.1:{trap_port}/secret\r\n"
        writer.write(f"HTTP/1.1 {status} Moved\r\n{location}Content-Length: 0\r\n\r\n".encode())

    transport = Transport(limits=QUICK)
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert answer == PushResponse(status)
    assert visits == 0


async def test_the_response_keeps_headers_for_the_policy_and_an_excerpt_of_the_body(
    serve: Serve, read_request: ReadRequest
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nX-WNS-Status: dropped\r\nServer: x\r\n")
        writer.write(b"Content-Length: 100000\r\n\r\n" + b"e" * 100_000)

    transport = Transport(limits=QUICK)
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert answer == PushResponse(429, {"retry-after": "7", "x-wns-status": "dropped"}, "e" * 4096)


async def test_proxy_environment_variables_are_ignored(
    serve: Serve, read_request: ReadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxied = 0

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal proxied
        proxied += 1

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CREATED)

    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{await serve(proxy)}")
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    transport = Transport(limits=QUICK)
    assert await post(transport, await serve(handler)) == PushResponse(201)
    await transport.close()
    assert proxied == 0


async def test_a_compressed_bomb_is_not_inflated(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")

    transport = Transport(limits=QUICK)
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert answer == PushResponse(400, {}, "abc")


async def test_a_request_to_a_hanging_service_times_out(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.Event().wait()

    transport = Transport(limits=QUICK)
    start = time.monotonic()
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert answer == NoResponse("127.0.0.1 did not answer within 0.6 s")
    assert time.monotonic() - start < 3


async def drip(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(head)
    while not writer.is_closing():
        await asyncio.sleep(0.05)
        writer.write(b"x")


async def test_slowly_sent_headers_time_out(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await drip(writer, b"HTTP/1.1 201 Created\r\nX-")

    transport = Transport(limits=QUICK)
    start = time.monotonic()
    assert isinstance(await post(transport, await serve(handler)), NoResponse)
    await transport.close()
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("status", [201, 410])
async def test_a_slowly_sent_body_is_cut_off_and_the_status_is_kept(
    serve: Serve, read_request: ReadRequest, status: int
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await drip(writer, f"HTTP/1.1 {status} X\r\nContent-Length: 5000\r\n\r\n".encode())

    transport = Transport(limits=QUICK)
    start = time.monotonic()
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert isinstance(answer, PushResponse)
    assert answer.status == status
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "noise", [b"", b"garbage\r\n\r\n", b"\x00\xff" * 50, b"HTTP/1.1 201 Created\r\nContent-Length: -1\r\n\r\n"]
)
async def test_malformed_http_is_not_a_response(serve: Serve, read_request: ReadRequest, noise: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(noise)

    transport = Transport(limits=QUICK)
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert isinstance(answer, NoResponse)
    assert "/push/x" not in answer.why


async def test_after_a_refused_connection_the_next_address_is_tried(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CREATED)

    port = await serve(handler)

    async def resolve_to_two_addresses(_origin: Origin) -> tuple[str, ...]:
        # no server listens on the first address
        return ("127.0.0.9", "127.0.0.1")

    url = f"http://push.test:{port}/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(limits=QUICK, resolver=resolve_to_two_addresses)
    assert await transport.post(origin, url, {}, b"") == NoResponse("could not connect to push.test")
    assert await transport.post(origin, url, {}, b"") == PushResponse(201)
    await transport.close()


async def test_a_name_that_rebinds_to_the_loopback_is_rejected_on_connect(
    serve: Serve, read_request: ReadRequest
) -> None:
    connections = 0

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1

    port = await serve(canary)
    # not allow-listed by the operator, so only public addresses are allowed; localhost stands for a rebound name
    origin = Origin("http", "localhost", port)
    transport = Transport(limits=QUICK)
    answer = await transport.post(origin, f"http://localhost:{port}/x", {}, b"")
    await transport.close()
    assert answer == NoResponse("localhost has no public address")
    assert connections == 0


async def test_an_address_is_pinned_for_a_clients_lifetime_and_then_resolved_again(
    serve: Serve, read_request: ReadRequest
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(CREATED)

    port = await serve(handler)
    lookups = 0

    async def resolver(_origin: Origin) -> tuple[str, ...]:
        nonlocal lookups
        lookups += 1
        return ("127.0.0.1",)

    url = f"http://push.test:{port}/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    long_lived = Transport(resolver=resolver)
    await asyncio.gather(*(long_lived.post(origin, url, {}, b"") for _ in range(50)))
    assert lookups == 1
    short_lived = Transport(limits=TransportLimits(max_client_age=0.0), resolver=resolver)
    for _ in range(3):
        assert await short_lived.post(origin, url, {}, b"") == PushResponse(201)
    assert lookups == 4
    await long_lived.close()
    await short_lived.close()


async def test_concurrent_requests_to_an_unresolvable_name_share_one_lookup() -> None:
    lookups = 0

    async def resolver(_origin: Origin) -> tuple[str, ...]:
        nonlocal lookups
        lookups += 1
        raise AddressRefused("push.test does not resolve")

    transport = Transport(resolver=resolver)
    origin = Origin("https", "push.test", 443, is_configured=True)
    posts = [transport.post(origin, "https://push.test/x", {}, b"") for _ in range(50)]
    assert set(await asyncio.gather(*posts)) == {NoResponse("push.test does not resolve")}
    assert await transport.post(origin, "https://push.test/x", {}, b"") == NoResponse("push.test does not resolve")
    await transport.close()
    assert lookups == 1


async def test_an_invalid_ca_file_is_named() -> None:
    with pytest.raises(ConfigError, match="TIDINGS_PUSH_CA_FILE"):
        Transport(ca_pem=b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
