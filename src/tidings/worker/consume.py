"""One lane: take tasks, do them, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from tidings.errors import BackendError
from tidings.flow.deliver.send import Sender
from tidings.flow.pipeline import Pipeline
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

log = structlog.get_logger(__name__)

#: claims of one lane worked on at the same time: one is sending while the next is being claimed
CLAIMS_AT_ONCE = 2
#: fan-outs of one lane planned at the same time
FAN_OUTS_AT_ONCE = 2
#: how long a task that failed waits before it is tried again
AFTER_FAILURE = timedelta(seconds=5)


class Consumer:
    """Works on one lane until the queue is closed."""

    def __init__(self, lane: Lane, pipeline: Pipeline, sender: Sender) -> None:
        self._lane = lane
        self._pipeline = pipeline
        self._sender = sender
        self._claims = asyncio.Semaphore(CLAIMS_AT_ONCE)
        self._fan_outs = asyncio.Semaphore(FAN_OUTS_AT_ONCE)

    async def run(self) -> None:
        queue = self._pipeline.queue
        async with asyncio.TaskGroup() as group:
            while tasks := await queue.take(self._lane, self._pipeline.sizes.claim):
                batches = [task for task in tasks if task.kind is TaskKind.DELIVER]
                for task in tasks:
                    if task.kind is TaskKind.FAN_OUT:
                        await self._start(group, self._fan_outs, self._fan_out, [task])
                if batches:
                    await self._start(group, self._claims, self._deliver, batches)

    async def _start(
        self,
        group: asyncio.TaskGroup,
        places: asyncio.Semaphore,
        work: Callable[[Sequence[Task]], Awaitable[None]],
        tasks: Sequence[Task],
    ) -> None:
        await places.acquire()
        started = group.create_task(self._guarded(work, tasks))
        started.add_done_callback(lambda _: places.release())

    async def _fan_out(self, tasks: Sequence[Task]) -> None:
        following = await self._pipeline.fan_out(tasks[0].ref)
        if following:
            # back to the end of the lane, so that a long audience does not hold up the others
            await self._pipeline.queue.publish([following])

    async def _deliver(self, tasks: Sequence[Task]) -> None:
        await self._pipeline.deliver([task.ref for task in tasks], self._sender)

    async def _guarded(self, work: Callable[[Sequence[Task]], Awaitable[None]], tasks: Sequence[Task]) -> None:
        queue = self._pipeline.queue
        try:
            await work(tasks)
            await queue.done(tasks)
        except Exception as error:  # the work is in the database and is tried again; the lane goes on
            if isinstance(error, BackendError):
                log.warning("backend_away", lane=self._lane.value, problem=error.message)
            else:
                log.exception("task_failed", lane=self._lane.value, tasks=[task.ref for task in tasks])
            later = self._pipeline.clock.now() + AFTER_FAILURE
            await queue.publish([replace(task, due_at=later) for task in tasks])
