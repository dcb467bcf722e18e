"""The interval runner continues after failures, and ends when stopped."""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.testing import capture_logs

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.worker.interval_tasks import IntervalTask, run_intervals


async def test_a_failed_interval_task_is_retried_and_the_others_continue() -> None:
    tries, done = 0, asyncio.Event()

    async def fails() -> None:
        nonlocal tries
        tries += 1
        raise BackendError("away") if tries % 2 else ValueError("a bug")

    async def succeed() -> None:
        if tries >= 4:
            done.set()

    going = asyncio.create_task(
        run_intervals(
            [IntervalTask(0.0, fails), IntervalTask(0.0, succeed)], BackendHealth("database"), poll_interval=0.0
        )
    )
    async with asyncio.timeout(10):
        await done.wait()
    going.cancel()
    await asyncio.wait([going])
    assert going.cancelled()


async def test_a_task_that_swallows_cancellation_does_not_keep_the_runner_alive() -> None:
    begun = asyncio.Event()

    async def ignore_cancellation() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    going = asyncio.create_task(
        run_intervals([IntervalTask(0.0, ignore_cancellation)], BackendHealth("database"), poll_interval=60.0)
    )
    await begun.wait()
    going.cancel()
    done, _ = await asyncio.wait([going], timeout=10)
    assert done


async def test_a_database_outage_is_logged_once_and_a_queue_outage_never() -> None:
    failed: set[str] = set()
    all_failed = asyncio.Event()

    def failing(name: str, backend: str) -> Callable[[], Awaitable[None]]:
        async def fails() -> None:
            failed.add(name)
            if len(failed) == 3:
                all_failed.set()
            raise BackendError(f"the {backend} does not answer", backend=backend)

        return fails

    health = BackendHealth("database")
    rounds = [IntervalTask(0.0, failing(name, name.split()[0])) for name in ("queue", "database one", "database two")]
    with capture_logs() as logs:
        going = asyncio.create_task(run_intervals(rounds, health, poll_interval=0.0))
        async with asyncio.timeout(10):
            await all_failed.wait()
        going.cancel()
        await asyncio.wait([going])
    assert [(entry["event"], entry["backend"]) for entry in logs] == [("backend_unavailable", "database")]
    assert not health.is_available
