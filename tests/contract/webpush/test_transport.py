"""The transport against a real server that behaves and misbehaves."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from tidings.channels.webpush.addresses import AddressRefused
from tidings.channels.webpush.answer import Answer, NoAnswer
from tidings.channels.webpush.endpoints import EndpointPolicy, Origin
from tidings.channels.webpush.transport import Limits, Transport
from tidings.errors import ConfigError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[int]]
ReadRequest = Callable[[asyncio.StreamReader], Awaitable[tuple[dict[str, str], bytes]]]

QUICK = Limits(connect=1.0, total=0.6)
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


async def post(transport: Transport, port: int, path: str = "/push/x", body: bytes = b"sealed") -> Answer | NoAnswer:
    url = f"http://127.0.0.1:{port}{path}"
    return await transport.post(EndpointPolicy.parse(f"127.0.0.1:{port}").check(url), url, {"TTL": "60"}, body)


async def test_a_request_arrives_as_web_push_wants_it(serve: Serve, read_request: ReadRequest) -> None:
    seen: list[tuple[dict[str, str], bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(CREATED)

    transport = Transport(limits=QUICK)
    port = await serve(handler)
    for _ in range(3):
        assert await post(transport, port, "/push/%2F?token=a%2fb") == Answer(201)
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


async def test_one_after_the_other_share_a_connection(serve: Serve, read_request: ReadRequest) -> None:
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
        assert await post(transport, port) == Answer(201)
    await transport.close()
    assert connections == 1


async def test_a_crowd_is_let_through_a_few_at_a_time(serve: Serve, read_request: ReadRequest) -> None:
    in_hand = most = 0
    full = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal in_hand, most
        while True:
            await read_request(reader)
            in_hand += 1
            most = max(most, in_hand)
            # the first request opens the way; then nobody is answered until all eight places are taken
            if in_hand == 8 or not transport_is_warm:
                full.set()
            await full.wait()
            in_hand -= 1
            writer.write(CREATED)

    transport_is_warm = False
    transport = Transport(limits=Limits(in_flight=8))
    port = await serve(handler)
    assert await post(transport, port) == Answer(201)
    transport_is_warm = True
    full.clear()
    answers = await asyncio.gather(*(post(transport, port) for _ in range(100)))
    await transport.close()
    assert answers == [Answer(201)] * 100
    assert most == 8


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_is_never_followed(
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
    assert answer == Answer(status)
    assert visits == 0


async def test_the_headers_the_policy_needs_and_an_excerpt_are_kept(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nX-WNS-Status: dropped\r\nServer: x\r\n")
        writer.write(b"Content-Length: 100000\r\n\r\n" + b"e" * 100_000)

    transport = Transport(limits=QUICK)
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert answer == Answer(429, {"retry-after": "7", "x-wns-status": "dropped"}, "e" * 4096)


async def test_a_proxy_of_the_environment_is_not_used(
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
    assert await post(transport, await serve(handler)) == Answer(201)
    await transport.close()
    assert proxied == 0


async def test_a_compressed_bomb_is_not_inflated(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")

    transport = Transport(limits=QUICK)
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert answer == Answer(400, {}, "abc")


async def test_a_service_that_hangs_is_left(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.Event().wait()

    transport = Transport(limits=QUICK)
    start = time.monotonic()
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert answer == NoAnswer("127.0.0.1 did not answer within 0.6 s")
    assert time.monotonic() - start < 3


async def dripping(writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(head)
    while not writer.is_closing():
        await asyncio.sleep(0.05)
        writer.write(b"x")


async def test_headers_that_drip_do_not_hold_us(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await dripping(writer, b"HTTP/1.1 201 Created\r\nX-")

    transport = Transport(limits=QUICK)
    start = time.monotonic()
    assert isinstance(await post(transport, await serve(handler)), NoAnswer)
    await transport.close()
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("status", [201, 410])
async def test_a_body_that_drips_does_not_hold_us_and_the_status_counts(
    serve: Serve, read_request: ReadRequest, status: int
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await dripping(writer, f"HTTP/1.1 {status} X\r\nContent-Length: 5000\r\n\r\n".encode())

    transport = Transport(limits=QUICK)
    start = time.monotonic()
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert isinstance(answer, Answer)
    assert answer.status == status
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "noise", [b"", b"garbage\r\n\r\n", b"\x00\xff" * 50, b"HTTP/1.1 201 Created\r\nContent-Length: -1\r\n\r\n"]
)
async def test_noise_is_no_answer(serve: Serve, read_request: ReadRequest, noise: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(noise)

    transport = Transport(limits=QUICK)
    answer = await post(transport, await serve(handler))
    await transport.close()
    assert isinstance(answer, NoAnswer)
    assert "/push/x" not in answer.why


async def test_nobody_there_is_no_answer_and_the_next_address_is_tried(serve: Serve, read_request: ReadRequest) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CREATED)

    port = await serve(handler)

    async def two(_origin: Origin) -> tuple[str, ...]:
        # nothing listens on the first
        return ("127.0.0.9", "127.0.0.1")

    url = f"http://push.test:{port}/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    transport = Transport(limits=QUICK, resolver=two)
    assert await transport.post(origin, url, {}, b"") == NoAnswer("push.test could not be connected to")
    assert await transport.post(origin, url, {}, b"") == Answer(201)
    await transport.close()


async def test_a_name_that_flips_to_the_loopback_is_refused_when_connecting(
    serve: Serve, read_request: ReadRequest
) -> None:
    connections = 0

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1

    port = await serve(canary)
    # not named by the operator, so only public addresses will do; localhost stands for a name that flipped
    origin = Origin("http", "localhost", port)
    transport = Transport(limits=QUICK)
    answer = await transport.post(origin, f"http://localhost:{port}/x", {}, b"")
    await transport.close()
    assert answer == NoAnswer("localhost has no public address")
    assert connections == 0


async def test_the_address_is_pinned_then_looked_up_again_after_a_clients_life(
    serve: Serve, read_request: ReadRequest
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(CREATED)

    port = await serve(handler)
    looked_up = 0

    async def resolver(_origin: Origin) -> tuple[str, ...]:
        nonlocal looked_up
        looked_up += 1
        return ("127.0.0.1",)

    url = f"http://push.test:{port}/x"
    origin = EndpointPolicy.parse(f"push.test:{port}").check(url)
    lasting = Transport(resolver=resolver)
    await asyncio.gather(*(lasting.post(origin, url, {}, b"") for _ in range(50)))
    assert looked_up == 1
    fleeting = Transport(limits=Limits(client_life=0.0), resolver=resolver)
    for _ in range(3):
        assert await fleeting.post(origin, url, {}, b"") == Answer(201)
    assert looked_up == 4
    await lasting.close()
    await fleeting.close()


async def test_a_name_that_does_not_resolve_is_asked_for_once_by_a_crowd() -> None:
    looked_up = 0

    async def resolver(_origin: Origin) -> tuple[str, ...]:
        nonlocal looked_up
        looked_up += 1
        raise AddressRefused("push.test does not resolve")

    transport = Transport(resolver=resolver)
    origin = Origin("https", "push.test", 443, configured=True)
    posts = [transport.post(origin, "https://push.test/x", {}, b"") for _ in range(50)]
    assert set(await asyncio.gather(*posts)) == {NoAnswer("push.test does not resolve")}
    assert await transport.post(origin, "https://push.test/x", {}, b"") == NoAnswer("push.test does not resolve")
    await transport.close()
    assert looked_up == 1


async def test_a_wrong_certificate_authority_is_named() -> None:
    with pytest.raises(ConfigError, match="TIDINGS_PUSH_CA_FILE"):
        Transport(ca_pem=b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
