"""How a consumer handles jobs of a fetch whose reply was lost, beside jobs that it is settling."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tidings.errors import BackendError
from tidings.model.ids import new_id
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq_codec import NewJob
from tidings.queues.bullmq_commands import ScriptCall
from tidings.queues.bullmq_consumer import BullMQConsumer

Consumers = Callable[..., BullMQConsumer]


async def test_a_job_that_is_being_settled_is_not_requeued_by_the_next_fetch(
    consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = consumers()
    now = SystemClock().now()
    await consumer.add([NewJob(new_id(now), "a", {}, now) for _ in range(2)], now)
    (done,) = await consumer.receive(1)
    run, is_settling, proceed = consumer._client.run, asyncio.Event(), asyncio.Event()

    async def run_slowly(calls: Sequence[ScriptCall], *, completed_units: int = 0) -> list[str]:
        if completed_units and not is_settling.is_set():
            is_settling.set()
            await proceed.wait()
        return await run(calls, completed_units=completed_units)

    monkeypatch.setattr(consumer._client, "run", run_slowly)
    completing = asyncio.create_task(consumer.complete([done]))
    await is_settling.wait()
    await _lose_a_reply(consumer, monkeypatch)
    (other,) = await consumer.receive(1)
    proceed.set()
    await completing
    await consumer.complete([other])
    stats = await consumer.stats()
    assert (stats.completed, stats.waiting + stats.delayed + stats.active) == (2, 0)


async def _lose_a_reply(consumer: BullMQConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the consumer fetch jobs and lose the reply."""
    fetch = consumer._client.move_to_active

    async def fetch_and_fail(token: str, limit: int, found: list[Any]) -> None:
        await fetch(token, limit, [])
        raise BackendError("the reply was lost")

    with monkeypatch.context() as patch:
        patch.setattr(consumer._client, "move_to_active", fetch_and_fail)
        with pytest.raises(BackendError):
            await consumer._fetch(1)
