"""Cancellation and timeouts that do not wait for the cancelled task to finish.

A task that waits for a server that hangs may not end when it is cancelled. It is then abandoned and ends with the
process.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")
#: seconds to wait for cancelled tasks; enough for any task that does not wait for a server
CANCEL_TIMEOUT = 1.0


async def cancel_all(tasks: Sequence[asyncio.Task[Any]]) -> bool:
    """Cancel tasks; return whether all ended within `CANCEL_TIMEOUT` seconds, with whatever result."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(discard_result)
    if not tasks:
        return True
    _, late = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
    return not late


async def run_with_deadline(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """Return what `work` returns or raise what it raises. Raises TimeoutError after `seconds`.

    `asyncio.timeout` would wait until the cancelled work ends, which may wait for a server that hangs.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
    finally:
        # after the time-out, or after a cancellation of the caller
        task.cancel()
        task.add_done_callback(discard_result)
    raise TimeoutError


def discard_result(task: asyncio.Future[Any]) -> None:
    """Retrieve the exception of an abandoned task, so that asyncio does not log it. Use as a done callback."""
    if not task.cancelled():
        task.exception()
