"""Ending in time: what waits for a server that hangs is told to end and left behind, to end with the process."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")
#: seconds that tasks may take to end that were told to: enough for all that wait for nobody
CANCELS_WITHIN = 1.0


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> bool:
    """Cancel tasks; return whether they have ended within `CANCELS_WITHIN`, however they did."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(seen)
    if not tasks:
        return True
    _, late = await asyncio.wait(tasks, timeout=CANCELS_WITHIN)
    return not late


async def within(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """Return what the work returns. Raises what it raises, and TimeoutError after so many seconds.

    `asyncio.timeout` would wait for what it cancels, and that for the server that hangs.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
    finally:
        # late, or nobody waits for it any more
        task.cancel()
        task.add_done_callback(seen)
    raise TimeoutError


def seen(task: asyncio.Future[Any]) -> None:
    """Take the error of a task that nobody else asks for: a callback for when it is done."""
    if not task.cancelled():
        task.exception()
