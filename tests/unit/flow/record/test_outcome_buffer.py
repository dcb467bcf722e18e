"""Outcomes are written soon and in bulk. None is lost while the database is unavailable."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import pytest

from tidings.errors import BackendError
from tidings.flow.record.outcome_buffer import OutcomeBuffer
from tidings.model.delivery import AttemptResult
from tidings.model.outcome import Accepted
from tidings.testing.contracts.samples import make_attempt_result, make_claimed_delivery, make_notification

NEVER = 3600.0
TIMEOUT = 10.0


class FakeWriter:
    """Receives what the buffer writes. It can fail or block."""

    def __init__(self) -> None:
        self.writes: list[list[str]] = []
        self.written = asyncio.Condition()
        self.failures = 0
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    async def write(self, rows: Sequence[AttemptResult]) -> None:
        await self.unblocked.wait()
        async with self.written:
            self.written.notify_all()
            if self.failures:
                self.failures -= 1
                raise BackendError("the database is unavailable", retry_after=0)
            self.writes.append([row.delivery_id for row in rows])

    async def wait_for_writes(self, writes: int) -> None:
        async with asyncio.timeout(TIMEOUT), self.written:
            await self.written.wait_for(lambda: len(self.writes) >= writes)


def outcomes(count: int) -> list[AttemptResult]:
    notification = make_notification()
    return [make_attempt_result(make_claimed_delivery(notification), Accepted()) for _ in range(count)]


def ids(rows: Sequence[AttemptResult]) -> list[str]:
    return [row.delivery_id for row in rows]


@asynccontextmanager
async def running(buffer: OutcomeBuffer) -> AsyncIterator[None]:
    loop = asyncio.create_task(buffer.run())
    try:
        yield
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


async def test_a_full_buffer_is_written_at_once() -> None:
    writer = FakeWriter()
    buffer, rows = OutcomeBuffer(writer.write, max_rows=3, max_delay=NEVER), outcomes(3)
    async with running(buffer):
        for row in rows:
            await buffer.add(row)
        await writer.wait_for_writes(1)
    assert writer.writes == [ids(rows)]
    assert buffer.pending_count == 0


async def test_a_partly_filled_buffer_is_written_after_the_delay() -> None:
    writer = FakeWriter()
    buffer, rows = OutcomeBuffer(writer.write, max_rows=500, max_delay=0.01), outcomes(2)
    async with running(buffer):
        for number, row in enumerate(rows, 1):
            await buffer.add(row)
            await writer.wait_for_writes(number)
    assert writer.writes == [[rows[0].delivery_id], [rows[1].delivery_id]]


async def test_nothing_is_lost_or_repeated_after_a_database_outage() -> None:
    writer = FakeWriter()
    writer.failures = 3
    buffer, rows = OutcomeBuffer(writer.write, max_rows=2, max_delay=0.001), outcomes(5)
    async with running(buffer):
        for row in rows:
            await asyncio.wait_for(buffer.add(row), TIMEOUT)
        async with asyncio.timeout(TIMEOUT), writer.written:
            await writer.written.wait_for(lambda: sum(map(len, writer.writes)) == len(rows))
    assert [one for write in writer.writes for one in write] == ids(rows)
    assert all(len(write) <= 2 for write in writer.writes)


async def test_unwritten_outcomes_are_bounded() -> None:
    writer = FakeWriter()
    writer.unblocked.clear()
    buffer, rows = OutcomeBuffer(writer.write, max_rows=3, max_delay=NEVER), outcomes(6)
    async with running(buffer):
        adding = [asyncio.create_task(buffer.add(row)) for row in rows]
        await asyncio.wait(adding, timeout=0.02)
        assert (buffer.pending_count, sum(task.done() for task in adding)) == (3, 3)
        writer.unblocked.set()
        await asyncio.wait_for(asyncio.gather(*adding), TIMEOUT)
    await buffer.flush()
    assert [one for write in writer.writes for one in write] == ids(rows)
    assert all(len(write) <= 3 for write in writer.writes)


async def test_flush_soon_writes_without_delay() -> None:
    writer = FakeWriter()
    buffer, rows = OutcomeBuffer(writer.write, max_rows=500, max_delay=NEVER), outcomes(2)
    async with running(buffer):
        for row in rows:
            await buffer.add(row)
        buffer.flush_soon()
        await writer.wait_for_writes(1)
    assert writer.writes == [ids(rows)]


async def test_flush_writes_all_and_then_nothing() -> None:
    writer = FakeWriter()
    buffer, rows = OutcomeBuffer(writer.write, max_rows=3, max_delay=NEVER), outcomes(3)
    for row in rows:
        await buffer.add(row)
    await buffer.flush()
    assert writer.writes == [ids(rows)]
    await buffer.flush()
    assert len(writer.writes) == 1


async def test_flush_raises_while_the_database_is_unavailable_and_keeps_the_rows() -> None:
    writer = FakeWriter()
    writer.failures = 1
    buffer, rows = OutcomeBuffer(writer.write, max_rows=3, max_delay=NEVER), outcomes(2)
    for row in rows:
        await buffer.add(row)
    with pytest.raises(BackendError):
        await buffer.flush()
    assert buffer.pending_count == 2
    await buffer.flush()
    assert writer.writes == [ids(rows)]


async def test_a_loop_stopped_in_the_middle_of_a_write_leaves_the_rows_for_the_last_flush() -> None:
    writer = FakeWriter()
    writer.unblocked.clear()
    buffer, rows = OutcomeBuffer(writer.write, max_rows=2, max_delay=NEVER), outcomes(2)
    async with running(buffer):
        for row in rows:
            await buffer.add(row)
    assert buffer.pending_count == 2
    writer.unblocked.set()
    await buffer.flush()
    assert writer.writes == [ids(rows)]


@pytest.mark.parametrize("swallowed", [False, True], ids=["while it waits", "before, and a library swallowed that"])
async def test_a_cancelled_send_adds_its_outcome_to_a_full_buffer(swallowed: bool) -> None:
    writer = FakeWriter()
    buffer, rows = OutcomeBuffer(writer.write, max_rows=1, max_delay=NEVER), outcomes(2)
    await buffer.add(rows[0])
    sending = asyncio.Event()

    async def send() -> None:
        if swallowed:
            with suppress(asyncio.CancelledError):
                sending.set()
                await asyncio.Event().wait()
        sending.set()
        await buffer.add(rows[1])

    stopped = asyncio.create_task(send())
    await sending.wait()
    stopped.cancel()
    done, _ = await asyncio.wait([stopped], timeout=TIMEOUT)
    assert done, "it would wait for as long as the database is away"
    await buffer.flush()
    assert writer.writes == [ids(rows)]


async def test_a_send_that_waits_for_capacity_does_not_block_the_event_loop() -> None:
    class Impatient(asyncio.Event):
        waits = 0

        async def wait(self) -> Literal[True]:
            self.waits += 1
            assert self.waits < 10, "it never lets go of the event loop"
            return await super().wait()

    writer = FakeWriter()
    writer.unblocked.clear()

    async def block_writes(rows: Sequence[AttemptResult]) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await writer.write(rows)

    buffer, rows = OutcomeBuffer(block_writes, max_rows=1, max_delay=NEVER), outcomes(4)
    buffer._has_capacity = Impatient()
    await buffer.add(rows[0])
    writing = asyncio.create_task(buffer.flush())
    adding = [asyncio.create_task(buffer.add(row)) for row in rows[1:]]
    await asyncio.sleep(0)
    for stopped in adding[1:]:
        stopped.cancel()
    await asyncio.wait(adding[1:], timeout=TIMEOUT)
    assert buffer.pending_count == 3, "those who were stopped have left what they knew"
    writer.unblocked.set()
    await asyncio.wait_for(asyncio.gather(writing, adding[0]), TIMEOUT)
    await buffer.flush()
    assert {one for write in writer.writes for one in write} == set(ids(rows))
