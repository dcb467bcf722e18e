"""The buffer of a viewer's connection is bounded, and who may connect."""

import asyncio

import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from tidings.api.routes.stream_socket import MAX_BUFFERED_BYTES, BufferedConnection, is_trusted_origin


async def test_e18_a_slow_client_is_cut_at_a_bounded_buffer_with_a_code_of_its_own() -> None:
    sent: list[Message] = []
    is_writable = asyncio.Event()

    async def send(message: Message) -> None:
        await is_writable.wait()
        sent.append(message)

    connection = BufferedConnection(send, None)
    message = b"x" * 1024
    for _ in range(2 * MAX_BUFFERED_BYTES // len(message)):
        connection.send(message)
        await asyncio.sleep(0)
    is_writable.set()
    async with asyncio.timeout(5):
        while not sent or sent[-1]["type"] != "websocket.close":
            await asyncio.sleep(0)
    assert sent[-1]["code"] == 4413
    # what waited is dropped: only the message that was being written arrives
    assert [one["type"] for one in sent] == ["websocket.send", "websocket.close"]
    connection.send(message)
    assert len(sent) == 2


async def test_a_client_that_keeps_up_receives_every_message() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    connection = BufferedConnection(send, None)
    for number in range(1000):
        connection.send(b"%d" % number)
        await asyncio.sleep(0)
    assert [one["text"] for one in sent] == [str(number) for number in range(1000)]


@pytest.mark.parametrize(
    ("origin", "is_trusted"),
    [
        (None, True),
        ("https://tidings.example", True),
        ("https://app.example", True),
        ("https://evil.example", False),
        ("null", False),
    ],
)
def test_only_pages_of_the_server_and_of_listed_sites_connect(origin: str | None, is_trusted: bool) -> None:
    headers = Headers({"host": "tidings.example"} | ({} if origin is None else {"origin": origin}))
    assert is_trusted_origin(headers, frozenset({"https://app.example"})) is is_trusted
