"""The outbox relay: no task is lost while the queue is unavailable, and few are published twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tidings.flow.pipeline import PipelineConfig

if TYPE_CHECKING:
    from tests.unit.conftest import Process


@pytest.fixture
async def process(process: Process) -> Process:
    await process.add_users("ana")
    return process


async def _outbox(process: Process) -> int:
    async with process.store.read_snapshot() as tx:
        return len(await process.store.outbox.list_due(tx, process.clock.now(), 1000))


async def test_published_tasks_are_removed_from_the_outbox_later(process: Process) -> None:
    await process.submit("ana")
    assert await _outbox(process) == 1
    await process.pipeline.outbox_relay.ack()
    assert await _outbox(process) == 0


async def test_published_tasks_are_not_relayed_again_by_the_same_process(process: Process) -> None:
    await process.submit("ana")
    process.clock.advance(10)
    assert await process.pipeline.outbox_relay.relay() == 0
    assert len(process.queue.published) == 1


async def test_while_the_queue_is_unavailable_the_outbox_keeps_the_work(process: Process) -> None:
    process.queue.is_unavailable = True
    notification = await process.submit("ana")
    process.clock.advance(10)
    assert await process.pipeline.outbox_relay.relay() == 0, (
        "otherwise a loop that relays until nothing is left would never end"
    )
    await process.pipeline.outbox_relay.ack()
    assert await _outbox(process) == 1
    process.queue.is_unavailable = False
    assert await process.pipeline.outbox_relay.relay() == 1
    assert [task.ref for task in process.queue.published] == [notification.id]


async def test_an_error_of_the_queue_does_not_undo_what_is_committed(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_tasks: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(process.queue, "publish", broken)
    await process.submit("ana")
    assert await _outbox(process) == 1


async def test_other_processes_relay_tasks_only_after_a_delay(start: Callable[..., Process]) -> None:
    api, worker = start(), start()
    await api.add_users("ana")
    api.queue.is_unavailable = True
    notification = await api.submit("ana")
    assert await worker.pipeline.outbox_relay.relay() == 0
    worker.clock.advance(timedelta(seconds=2, milliseconds=1))
    assert await worker.pipeline.outbox_relay.relay() == 1
    assert [task.ref for task in worker.queue.published] == [notification.id]


async def test_a_worker_with_a_private_queue_relays_at_once(start: Callable[..., Process]) -> None:
    cli, worker = start(), start()
    cli.queue.is_shared = worker.queue.is_shared = False
    cli.pipeline.has_local_consumer = False
    await cli.add_users("ana")
    await cli.submit("ana")
    assert await worker.pipeline.outbox_relay.relay() == 1


async def test_a_long_backlog_is_relayed_in_one_pass(start: Callable[..., Process]) -> None:
    api, worker = start(), start(sizes=PipelineConfig(relay_batch_size=5))
    await api.add_users("ana")
    api.queue.is_unavailable = True
    for _ in range(40):
        await api.submit("ana")
    worker.clock.advance(10)
    relayed = 0
    while found := await worker.pipeline.outbox_relay.relay():
        relayed += found
    assert relayed == len(worker.queue.published) == 40
    assert await _outbox(worker) <= 10, "the rest was crossed off on the way"
