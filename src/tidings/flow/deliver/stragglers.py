"""Sends that take much longer than the rest of their claim must not keep the lane from its next claim."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping

#: seconds after which a send that is still in flight is a straggler
PATIENCE = 2.0
#: how often is looked for them, in seconds
_LOOK = 0.5


class Runner:
    """One of those who send the deliveries of a claim, one after the other."""

    def __init__(self) -> None:
        #: since when its present send is in flight, in the loop's time; None = it is not sending
        self.since: float | None = None
        #: whether somebody else waits for it now, not those who started it
        self.is_straggler = False
        #: whether it was cancelled, and is to begin nothing more
        self.is_stopped = False


class Stragglers:
    """Waits for claims. Whoever is still waiting takes over what is slow; the last one waits for everything.

    So a send is waited for as long as it lasts, and when that is broken off, so is the send; but of all lanes at most
    one claim is kept open by sends that hang, and only until the next begins.
    """

    def __init__(self) -> None:
        self._slow: dict[asyncio.Task[None], Runner] = {}
        self._waiting = 0
        self._another = asyncio.Event()

    async def until_done(
        self, runners: Collection[tuple[Runner, Coroutine[None, None, None]]], look: Callable[[], Awaitable[bool]]
    ) -> None:
        """Wait until the runners have ended, or only stragglers are left and somebody else waits for those.

        look: called every half second, says whether every delivery was begun. Raises what a runner raises, after the
        others were cancelled.
        """
        self._waiting += 1
        self._another.set()
        tasks = {asyncio.create_task(work): runner for runner, work in runners}
        try:
            await self._own(tasks, look)
            await self._linger()
        except BaseException:
            await _cancelled(tasks)
            if self._waiting == 1:
                await _cancelled(self._slow)
            raise
        finally:
            self._waiting -= 1

    async def _own(self, tasks: dict[asyncio.Task[None], Runner], look: Callable[[], Awaitable[bool]]) -> None:
        loop = asyncio.get_running_loop()
        while tasks:
            done, _ = await asyncio.wait(tasks, timeout=_LOOK, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                del tasks[task]
                task.result()
            all_begun = await look()
            slow_since = loop.time() - PATIENCE
            if all_begun and all(runner.since is not None and runner.since <= slow_since for runner in tasks.values()):
                for task, runner in tasks.items():
                    runner.is_straggler = True
                    self._slow[task] = runner
                    task.add_done_callback(self._ended)
                tasks.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._slow.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "a slow send failed", "exception": error})

    async def _linger(self) -> None:
        """As the only one who waits, wait for the slow ones until another comes."""
        while self._slow and self._waiting == 1:
            self._another.clear()
            other = asyncio.ensure_future(self._another.wait())
            try:
                await asyncio.wait({*self._slow, other}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                other.cancel()


async def _cancelled(tasks: Mapping[asyncio.Task[None], Runner]) -> None:
    cancelled = list(tasks)
    for task, runner in tasks.items():
        runner.is_stopped = True
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
