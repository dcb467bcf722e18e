"""Timers go on whatever fails, and end when they are told to."""

import asyncio

from tidings.errors import BackendError
from tidings.worker.timers import Round, go_round


async def test_what_fails_is_tried_again_and_the_others_go_on() -> None:
    tries, done = 0, asyncio.Event()

    async def fails() -> None:
        nonlocal tries
        tries += 1
        raise BackendError("away") if tries % 2 else ValueError("a bug")

    async def goes_on() -> None:
        if tries >= 4:
            done.set()

    going = asyncio.create_task(go_round([Round(0.0, fails), Round(0.0, goes_on)], pause=0.0))
    async with asyncio.timeout(10):
        await done.wait()
    going.cancel()
    await asyncio.wait([going])
    assert going.cancelled()


async def test_a_round_that_swallows_the_cancellation_does_not_keep_it_going() -> None:
    begun = asyncio.Event()

    async def deaf() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    going = asyncio.create_task(go_round([Round(0.0, deaf)], pause=60.0))
    await begun.wait()
    going.cancel()
    done, _ = await asyncio.wait([going], timeout=10)
    assert done
