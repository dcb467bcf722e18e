"""A worker ends after the second signal, whatever is still closing."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.testing.clock import FrozenClock
from tidings.worker import start_worker


async def test_a_second_signal_ends_the_worker_while_the_queues_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, hurry = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        closing.set()
        await asyncio.Event().wait()

    async with (
        AppContainer.open(Settings(data_dir=tmp_path), role=Role.SERVE) as runtime,
        start_worker(runtime) as worker,
    ):
        monkeypatch.setattr(runtime.queue, "stop", hang)
        stopping = asyncio.create_task(worker.stop(600.0, hurry))
        try:
            await asyncio.wait_for(closing.wait(), 10)
            hurry.set()
            done, _ = await asyncio.wait([stopping], timeout=10)
        finally:
            monkeypatch.undo()
    assert done


async def test_a_cancelled_queue_stop_loses_no_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def raise_cancelled() -> None:
        raise asyncio.CancelledError

    async with (
        AppContainer.open(Settings(data_dir=tmp_path), role=Role.SERVE) as runtime,
        start_worker(runtime) as worker,
    ):
        written = asyncio.Event()
        give_back = runtime.pipeline.delivery_runner.release_claims

        async def release_claims() -> int:
            written.set()
            return await give_back()

        monkeypatch.setattr(runtime.pipeline.delivery_runner, "release_claims", release_claims)
        monkeypatch.setattr(runtime.queue, "stop", raise_cancelled)
        await worker.stop(5.0)
        monkeypatch.undo()
    assert written.is_set()


async def test_retries_are_rescheduled_when_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FrozenClock()
    async with AppContainer.open(Settings(data_dir=tmp_path), clock=clock, role=Role.SERVE) as runtime:
        rescheduled = asyncio.Event()
        reschedule = runtime.reconciler.advance_retries

        async def advance_retries() -> None:
            await reschedule()
            rescheduled.set()

        monkeypatch.setattr(runtime.reconciler, "advance_retries", advance_retries)
        async with start_worker(runtime):
            assert rescheduled.is_set(), "also at a start"
            rescheduled.clear()
            clock.advance(timedelta(hours=-25).total_seconds())
            await asyncio.wait_for(rescheduled.wait(), 20)


async def test_c31_a_release_of_many_messages_delays_no_other_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation by another process takes effect while thousands of held messages become due."""
    releasing, refreshed = asyncio.Event(), asyncio.Event()

    async def batch_due() -> int:
        releasing.set()
        await asyncio.Event().wait()
        return 1

    async def refresh(_held: object) -> None:
        if releasing.is_set():
            refreshed.set()

    async with AppContainer.open(Settings(data_dir=tmp_path), role=Role.SERVE) as runtime:
        monkeypatch.setattr(runtime.pipeline, "batch_due", batch_due)
        monkeypatch.setattr(runtime.pipeline.cancellations, "refresh", refresh)
        async with start_worker(runtime):
            await asyncio.wait_for(refreshed.wait(), 10)
