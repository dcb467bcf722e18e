"""What a source does about jobs that it may have been given without hearing of it, beside those that it is settling."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tidings.errors import BackendError
from tidings.model.ids import new_id
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq import JobSource
from tidings.queues.bullmq_commands import Call
from tidings.queues.bullmq_jobs import NewJob

Sources = Callable[..., JobSource]


async def test_a_job_whose_settling_is_under_way_is_not_given_back_by_the_next_fetch(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources()
    now = SystemClock().now()
    await source.add([NewJob(new_id(now), "a", {}, now) for _ in range(2)], now)
    (done,) = await source.take(1)
    run, under_way, goes_on = source._commands.run, asyncio.Event(), asyncio.Event()

    async def slowly(calls: Sequence[Call], *, counted: int = 0) -> list[str]:
        if counted and not under_way.is_set():
            under_way.set()
            await goes_on.wait()
        return await run(calls, counted=counted)

    monkeypatch.setattr(source._commands, "run", slowly)
    completing = asyncio.create_task(source.complete([done]))
    await under_way.wait()
    await _lose_a_reply(source, monkeypatch)
    (other,) = await source.take(1)
    goes_on.set()
    await completing
    await source.complete([other])
    stats = await source.stats()
    assert (stats.completed, stats.waiting + stats.delayed + stats.active) == (2, 0)


async def _lose_a_reply(source: JobSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the source fetch without hearing what it got."""
    fetch = source._commands.move_to_active

    async def unheard(token: str, limit: int, found: list[Any]) -> None:
        await fetch(token, limit, [])
        raise BackendError("of a test")

    with monkeypatch.context() as patch:
        patch.setattr(source._commands, "move_to_active", unheard)
        with pytest.raises(BackendError):
            await source._fetch(1)
