"""The start throttle: a few sends per pass of the event loop, one per pass beside urgent work."""

import asyncio
from contextlib import suppress

from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.start_throttle import MAX_STARTS_PER_TICK
from tidings.model.priority import Lane

SENDS = 10 * MAX_STARTS_PER_TICK


async def _run_loop_once() -> None:
    await asyncio.sleep(0)


class WaitingSends:
    """Sends that keep their slots, with enough slots for all."""

    def __init__(self, lane: Lane = Lane.NORMAL) -> None:
        self.limiter = SendLimiter(4 * SENDS)
        self._tasks = [asyncio.create_task(self.limiter.acquire(lane)) for _ in range(SENDS)]

    @property
    def started(self) -> int:
        return self.limiter.in_flight

    async def wait_for_all(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks)


async def test_a_few_sends_start_per_pass_of_the_loop_until_all_have_started() -> None:
    sends = WaitingSends()
    await _run_loop_once()
    assert sends.started == MAX_STARTS_PER_TICK
    last = sends.started
    while sends.started < SENDS:
        await _run_loop_once()
        assert sends.started - last <= MAX_STARTS_PER_TICK
        last = sends.started
    await sends.wait_for_all()


async def test_an_urgent_send_starts_before_throttled_ones() -> None:
    sends = WaitingSends()
    await _run_loop_once()
    urgent = asyncio.create_task(sends.limiter.acquire(Lane.URGENT))
    while not urgent.done():
        await _run_loop_once()
    assert sends.started <= 4 * MAX_STARTS_PER_TICK
    await sends.close()


async def test_beside_urgent_work_sends_start_one_by_one_without_stalling() -> None:
    sends = WaitingSends()
    with sends.limiter.urgent_work():
        for _ in range(3):
            await _run_loop_once()
        assert sends.started == 1
        async with asyncio.timeout(10):
            while sends.started < 3:
                await asyncio.sleep(0.001)
        assert sends.started < SENDS
    await sends.wait_for_all()


async def test_urgent_work_does_not_delay_urgent_sends() -> None:
    sends = WaitingSends(Lane.URGENT)
    with sends.limiter.urgent_work():
        await sends.wait_for_all()
