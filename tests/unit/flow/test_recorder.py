"""Outcomes are written in bulk, soon, and none is lost while the database is away."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import pytest

from tidings.errors import BackendError
from tidings.flow.record.recorder import Recorder
from tidings.model.delivery import Attempted
from tidings.model.outcome import Delivered
from tidings.testing.contracts.samples import a_due, a_notification, tried

NEVER = 3600.0
PATIENCE = 10.0


class Ledger:
    """Takes what the recorder writes; may be away, or slow."""

    def __init__(self) -> None:
        self.writes: list[list[str]] = []
        self.written = asyncio.Condition()
        self.failures = 0
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, rows: Sequence[Attempted]) -> None:
        await self.open.wait()
        async with self.written:
            self.written.notify_all()
            if self.failures:
                self.failures -= 1
                raise BackendError("the database is away", retry_after=0)
            self.writes.append([row.delivery_id for row in rows])

    async def until(self, writes: int) -> None:
        async with asyncio.timeout(PATIENCE), self.written:
            await self.written.wait_for(lambda: len(self.writes) >= writes)


def outcomes(count: int) -> list[Attempted]:
    notification = a_notification()
    return [tried(a_due(notification), Delivered()) for _ in range(count)]


def ids(rows: Sequence[Attempted]) -> list[str]:
    return [row.delivery_id for row in rows]


@asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    loop = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop


async def test_a_full_buffer_is_written_at_once() -> None:
    ledger = Ledger()
    recorder, rows = Recorder(ledger.write, max_rows=3, max_delay=NEVER), outcomes(3)
    async with running(recorder):
        for row in rows:
            await recorder.add(row)
        await ledger.until(1)
    assert ledger.writes == [ids(rows)]
    assert recorder.waiting == 0


async def test_what_waits_is_written_after_the_delay_however_little_it_is() -> None:
    ledger = Ledger()
    recorder, rows = Recorder(ledger.write, max_rows=500, max_delay=0.01), outcomes(2)
    async with running(recorder):
        for number, row in enumerate(rows, 1):
            await recorder.add(row)
            await ledger.until(number)
    assert ledger.writes == [[rows[0].delivery_id], [rows[1].delivery_id]]


async def test_nothing_is_lost_and_nothing_repeated_when_the_database_was_away() -> None:
    ledger = Ledger()
    ledger.failures = 3
    recorder, rows = Recorder(ledger.write, max_rows=2, max_delay=0.001), outcomes(5)
    async with running(recorder):
        for row in rows:
            await asyncio.wait_for(recorder.add(row), PATIENCE)
        async with asyncio.timeout(PATIENCE), ledger.written:
            await ledger.written.wait_for(lambda: sum(map(len, ledger.writes)) == len(rows))
    assert [one for write in ledger.writes for one in write] == ids(rows)
    assert all(len(write) <= 2 for write in ledger.writes)


async def test_no_more_are_ever_unwritten_than_the_limit() -> None:
    ledger = Ledger()
    ledger.open.clear()
    recorder, rows = Recorder(ledger.write, max_rows=3, max_delay=NEVER), outcomes(6)
    async with running(recorder):
        adding = [asyncio.create_task(recorder.add(row)) for row in rows]
        await asyncio.wait(adding, timeout=0.02)
        assert (recorder.waiting, sum(task.done() for task in adding)) == (3, 3)
        ledger.open.set()
        await asyncio.wait_for(asyncio.gather(*adding), PATIENCE)
    await recorder.flush()
    assert [one for write in ledger.writes for one in write] == ids(rows)
    assert all(len(write) <= 3 for write in ledger.writes)


async def test_in_a_hurry_the_rest_is_written_without_delay() -> None:
    ledger = Ledger()
    recorder, rows = Recorder(ledger.write, max_rows=500, max_delay=NEVER), outcomes(2)
    async with running(recorder):
        for row in rows:
            await recorder.add(row)
        recorder.hurry()
        await ledger.until(1)
    assert ledger.writes == [ids(rows)]


async def test_flush_writes_all_and_then_nothing() -> None:
    ledger = Ledger()
    recorder, rows = Recorder(ledger.write, max_rows=3, max_delay=NEVER), outcomes(3)
    for row in rows:
        await recorder.add(row)
    await recorder.flush()
    assert ledger.writes == [ids(rows)]
    await recorder.flush()
    assert len(ledger.writes) == 1


async def test_flush_tells_that_the_database_is_away_and_keeps_the_rows() -> None:
    ledger = Ledger()
    ledger.failures = 1
    recorder, rows = Recorder(ledger.write, max_rows=3, max_delay=NEVER), outcomes(2)
    for row in rows:
        await recorder.add(row)
    with pytest.raises(BackendError):
        await recorder.flush()
    assert recorder.waiting == 2
    await recorder.flush()
    assert ledger.writes == [ids(rows)]


async def test_a_loop_stopped_in_the_middle_of_a_write_leaves_the_rows_for_the_last_flush() -> None:
    ledger = Ledger()
    ledger.open.clear()
    recorder, rows = Recorder(ledger.write, max_rows=2, max_delay=NEVER), outcomes(2)
    async with running(recorder):
        for row in rows:
            await recorder.add(row)
    assert recorder.waiting == 2
    ledger.open.set()
    await recorder.flush()
    assert ledger.writes == [ids(rows)]


@pytest.mark.parametrize("swallowed", [False, True], ids=["while it waits", "before, and a library swallowed that"])
async def test_whoever_is_stopped_does_not_wait_for_room_and_what_it_knows_is_written(swallowed: bool) -> None:
    ledger = Ledger()
    recorder, rows = Recorder(ledger.write, max_rows=1, max_delay=NEVER), outcomes(2)
    await recorder.add(rows[0])
    sending = asyncio.Event()

    async def send() -> None:
        if swallowed:
            with suppress(asyncio.CancelledError):
                sending.set()
                await asyncio.Event().wait()
        sending.set()
        await recorder.add(rows[1])

    stopped = asyncio.create_task(send())
    await sending.wait()
    stopped.cancel()
    done, _ = await asyncio.wait([stopped], timeout=PATIENCE)
    assert done, "it would wait for as long as the database is away"
    await recorder.flush()
    assert ledger.writes == [ids(rows)]


async def test_who_still_waits_for_room_lets_others_run_while_more_than_the_limit_is_kept() -> None:
    class Impatient(asyncio.Event):
        waits = 0

        async def wait(self) -> Literal[True]:
            self.waits += 1
            assert self.waits < 10, "it never lets go of the event loop"
            return await super().wait()

    ledger = Ledger()
    ledger.open.clear()

    async def slowly(rows: Sequence[Attempted]) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await ledger.write(rows)

    recorder, rows = Recorder(slowly, max_rows=1, max_delay=NEVER), outcomes(4)
    recorder._room = Impatient()
    await recorder.add(rows[0])
    writing = asyncio.create_task(recorder.flush())
    adding = [asyncio.create_task(recorder.add(row)) for row in rows[1:]]
    await asyncio.sleep(0)
    for stopped in adding[1:]:
        stopped.cancel()
    await asyncio.wait(adding[1:], timeout=PATIENCE)
    assert recorder.waiting == 3, "those who were stopped have left what they knew"
    ledger.open.set()
    await asyncio.wait_for(asyncio.gather(writing, adding[0]), PATIENCE)
    await recorder.flush()
    assert {one for write in ledger.writes for one in write} == set(ids(rows))
