"""From the outbox to the queue: nothing is lost while the queue is away, and little is said twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.flow.pipeline import Sizes

if TYPE_CHECKING:
    from tests.unit.flow.conftest import Process


@pytest.fixture
async def process(process: Process) -> Process:
    await process.people("ana")
    return process


async def _outbox(process: Process) -> int:
    async with process.store.read() as tx:
        return len(await process.store.outbox.due(tx, process.clock.now(), 1000))


async def test_what_the_queue_has_is_crossed_off_a_little_later(process: Process) -> None:
    await process.tell("ana")
    assert await _outbox(process) == 1
    await process.pipeline.settle_outbox()
    assert await _outbox(process) == 0


async def test_what_was_handed_over_is_not_relayed_again_by_the_same_process(process: Process) -> None:
    await process.tell("ana")
    process.clock.advance(10)
    assert await process.pipeline.dispatch() == 0
    assert len(process.queue.told) == 1


async def test_while_the_queue_is_away_the_caller_is_served_and_the_outbox_keeps_the_work(process: Process) -> None:
    process.queue.away = True
    notification = await process.tell("ana")
    process.clock.advance(10)
    assert await process.pipeline.dispatch() == 0, "or whoever relays until nothing is left would never end"
    await process.pipeline.settle_outbox()
    assert await _outbox(process) == 1
    process.queue.away = False
    assert await process.pipeline.dispatch() == 1
    assert [task.ref for task in process.queue.told] == [notification.id]


async def test_an_error_of_the_queue_does_not_undo_what_is_committed(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_tasks: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(process.queue, "publish", broken)
    await process.tell("ana")
    assert await _outbox(process) == 1


async def test_others_relay_only_what_its_writer_had_time_to_hand_over(start: Callable[..., Process]) -> None:
    api, worker = start(), start()
    await api.people("ana")
    api.queue.away = True
    notification = await api.tell("ana")
    assert await worker.pipeline.dispatch() == 0
    worker.clock.advance(timedelta(seconds=2, milliseconds=1))
    assert await worker.pipeline.dispatch() == 1
    assert [task.ref for task in worker.queue.told] == [notification.id]


async def test_with_a_queue_of_its_own_a_worker_relays_at_once(start: Callable[..., Process]) -> None:
    cli, worker = start(), start()
    cli.queue.shared = worker.queue.shared = False
    cli.pipeline.attended = False
    await cli.people("ana")
    await cli.tell("ana")
    assert await worker.pipeline.dispatch() == 1


async def test_a_long_backlog_is_relayed_without_reading_it_over_and_over(start: Callable[..., Process]) -> None:
    api, worker = start(), start(sizes=Sizes(relay=5))
    await api.people("ana")
    api.queue.away = True
    for _ in range(40):
        await api.tell("ana")
    worker.clock.advance(10)
    relayed = 0
    while found := await worker.pipeline.dispatch():
        relayed += found
    assert relayed == len(worker.queue.told) == 40
    assert await _outbox(worker) <= 10, "the rest was crossed off on the way"
