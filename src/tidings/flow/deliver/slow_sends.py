"""Slow sends: moved to a background waiter, so that they do not keep a lane from its next claim."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping

#: seconds after which a send in flight counts as slow
SLOW_AFTER = 2.0
#: seconds between checks for slow sends
_POLL_INTERVAL = 0.5


class SendTask:
    """The state of one task that sends deliveries of a claim, one after the other."""

    def __init__(self) -> None:
        #: start of the send in flight, in event loop time; None = no send is in flight
        self.started_at: float | None = None
        #: whether the claim that started the task no longer waits for it
        self.is_detached = False
        #: whether the task was cancelled and must not start another send
        self.is_stopped = False


class SlowSendWaiter:
    """Waits for the send tasks of claims. Slow tasks are detached from their claim and awaited by a later waiter.

    Every send is awaited until it ends, and cancelled if the wait is cancelled. Of all lanes, at most one claim (the
    last waiter) is kept open by hanging sends, and only until the next claim begins.
    """

    def __init__(self) -> None:
        self._slow: dict[asyncio.Task[None], SendTask] = {}
        self._waiter_count = 0
        self._waiter_arrived = asyncio.Event()

    async def run_until_done(
        self,
        send_tasks: Collection[tuple[SendTask, Coroutine[None, None, None]]],
        check_all_started: Callable[[], Awaitable[bool]],
    ) -> None:
        """Wait until the tasks have ended, or only slow ones are left and another waiter awaits those.

        send_tasks: state and coroutine of each task. check_all_started: called every half second, returns whether all
        deliveries of the claim were started. An exception of a task is raised after the other tasks were cancelled.
        """
        self._waiter_count += 1
        self._waiter_arrived.set()
        tasks = {asyncio.create_task(coroutine): state for state, coroutine in send_tasks}
        try:
            await self._wait_for_own_tasks(tasks, check_all_started)
            await self._wait_for_slow_tasks()
        except BaseException:
            await _cancel_all(tasks)
            if self._waiter_count == 1:
                await _cancel_all(self._slow)
            raise
        finally:
            self._waiter_count -= 1

    async def _wait_for_own_tasks(
        self, tasks: dict[asyncio.Task[None], SendTask], check_all_started: Callable[[], Awaitable[bool]]
    ) -> None:
        loop = asyncio.get_running_loop()
        while tasks:
            done, _ = await asyncio.wait(tasks, timeout=_POLL_INTERVAL, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                del tasks[task]
                task.result()
            all_started = await check_all_started()
            slow_since = loop.time() - SLOW_AFTER
            if all_started and all(
                state.started_at is not None and state.started_at <= slow_since for state in tasks.values()
            ):
                for task, state in tasks.items():
                    state.is_detached = True
                    self._slow[task] = state
                    task.add_done_callback(self._on_task_done)
                tasks.clear()

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._slow.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "a slow send failed", "exception": error})

    async def _wait_for_slow_tasks(self) -> None:
        """If this is the only waiter, wait for the slow tasks until another waiter arrives."""
        while self._slow and self._waiter_count == 1:
            self._waiter_arrived.clear()
            next_waiter = asyncio.ensure_future(self._waiter_arrived.wait())
            try:
                await asyncio.wait({*self._slow, next_waiter}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                next_waiter.cancel()


async def _cancel_all(tasks: Mapping[asyncio.Task[None], SendTask]) -> None:
    cancelled = list(tasks)
    for task, state in tasks.items():
        state.is_stopped = True
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
