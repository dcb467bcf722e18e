"""Waiting for a condition in tests."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_INTERVAL = 0.02


async def eventually(
    check: Callable[[], Awaitable[T | None]], *, within: float = 60.0, pause: float = _POLL_INTERVAL
) -> T:
    """Call `check` until its result is neither None nor False, and return that result.

    Arguments: within — seconds; pause — seconds between two calls. Raises TimeoutError naming the check.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        result = await check()
        if result is not None and result is not False:
            return result
        if loop.time() > deadline:
            raise TimeoutError(f"{getattr(check, '__name__', 'the check')} still returns {result!r} after {within:g} s")
        await asyncio.sleep(pause)
