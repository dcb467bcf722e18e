"""A worker that is told to stop, and told again, ends; whatever is still closing."""

import asyncio
from pathlib import Path

import pytest

from tidings.runtime import Runtime
from tidings.settings import Role, Settings
from tidings.worker import working


async def test_a_second_signal_is_heard_while_the_queues_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closing, hurry = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        closing.set()
        await asyncio.Event().wait()

    async with Runtime.open(Settings(data_dir=tmp_path), role=Role.SERVE) as runtime, working(runtime) as worker:
        monkeypatch.setattr(runtime.queue, "close", hangs)
        stopping = asyncio.create_task(worker.stop(600.0, hurry))
        try:
            await asyncio.wait_for(closing.wait(), 10)
            hurry.set()
            done, _ = await asyncio.wait([stopping], timeout=10)
        finally:
            monkeypatch.undo()
    assert done


async def test_a_queue_that_ends_cancelled_takes_no_outcomes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leaks() -> None:
        raise asyncio.CancelledError

    async with Runtime.open(Settings(data_dir=tmp_path), role=Role.SERVE) as runtime, working(runtime) as worker:
        written = asyncio.Event()
        give_back = runtime.pipeline.give_back

        async def gives_back() -> int:
            written.set()
            return await give_back()

        monkeypatch.setattr(runtime.pipeline, "give_back", gives_back)
        monkeypatch.setattr(runtime.queue, "close", leaks)
        await worker.stop(5.0)
        monkeypatch.undo()
    assert written.is_set()
