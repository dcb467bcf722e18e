"""The queue of a WebSocket passes messages in order, wakes its reader, and loses none to a cancellation."""

import asyncio

import pytest

from tidings.server.websocket_protocol import MessageQueue


async def test_messages_are_read_in_order() -> None:
    queue = MessageQueue()
    assert queue.empty()
    for number in range(3):
        queue.put_nowait(number)
    assert [await queue.get() for _ in range(3)] == [0, 1, 2]
    assert queue.empty()


async def test_a_waiting_reader_is_woken_also_by_several_messages_at_once() -> None:
    queue = MessageQueue()
    reader = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait("first")
    queue.put_nowait("second")
    assert await reader == "first"
    assert await queue.get() == "second"


async def test_a_cancelled_reader_leaves_the_message_to_the_next() -> None:
    queue = MessageQueue()
    reader = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait("kept")
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await queue.get() == "kept"
