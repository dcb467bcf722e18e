"""HTTP/1.1: keep-alive, pipelining, and invalid input."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.mockpush import MockPush

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.unit.mockpush.conftest import HttpClient, Sender


async def test_pipelined_requests_are_answered_in_order(push: MockPush, client: HttpClient, sender: Sender) -> None:
    message = sender.push()
    for number in range(600):
        behaviour = "!404/" if number % 3 else ""
        client.write("POST", f"/push/{behaviour}u1-1", message.headers, message.body)
    answers = [(await client.read()).status for _ in range(600)]
    assert answers == [404 if number % 3 else 201 for number in range(600)]


async def test_requests_behind_a_slow_one_wait_in_bounded_number(client: HttpClient, sender: Sender) -> None:
    message = sender.push()
    client.write("POST", "/push/!404;delay-ms=50/u1-1")
    for _ in range(1000):
        client.write("POST", "/push/!410/u1-1", message.headers, message.body)
    assert [(await client.read()).status for _ in range(1001)] == [404] + [410] * 1000


async def test_a_request_split_into_single_bytes_is_read(client: HttpClient) -> None:
    for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
        client.writer.write(bytes([byte]))
        await client.writer.drain()
    assert (await client.read()).status == 200


async def test_connection_close_is_honoured(client: HttpClient) -> None:
    answer = await client.call("GET", "/healthz", {"Connection": "close"})
    assert answer.status == 200
    assert await client.reader.read() == b""


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET\r\n\r\n", 400),
        (b"POST /push/a HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /push/a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
async def test_an_invalid_request_gets_a_response_and_the_connection_closes(
    garbage: bytes, status: int, client: HttpClient
) -> None:
    client.writer.write(garbage)
    assert (await client.read()).status == status
    assert await client.reader.read() == b""


async def test_a_huge_body_is_read_but_not_kept(push: MockPush, client: HttpClient, sender: Sender) -> None:
    client.write("POST", "/push/u1-1", sender.push().headers, b"x" * 5_000_000)
    assert (await client.read()).status == 413
    assert (await client.call("GET", "/healthz")).status == 200


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=8))
def test_no_bytes_end_the_server(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with MockPush() as push:
            port = int(push.origin.rpartition(":")[2])
            for prefix in (b"", b"POST /push/u1-1 HTTP/1.1\r\nTTL: 1\r\nAuthorization: vapid "):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(prefix + b"".join(chunks) + b"\r\n\r\n")
                writer.write_eof()
                await reader.read()
                writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readline()
            writer.close()
        assert failures == []

    asyncio.run(scenario())


async def test_stopping_ends_open_responses(
    connect: Callable[[str], Awaitable[HttpClient]],
) -> None:
    async with MockPush() as push:
        client = await connect(push.origin)
        client.write("POST", "/push/!hang/u1-1")
        await push.wait_for(received=1)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.read()
