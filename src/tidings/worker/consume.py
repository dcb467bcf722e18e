"""One lane: take tasks, do them, a few at a time; those of a kind that wait anyway go together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from tidings.errors import BackendError
from tidings.flow.deliver.send import Sender
from tidings.flow.dispatch.tasks import told_again
from tidings.flow.pipeline import Pipeline
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.worker.desk import Desk, Room

log = structlog.get_logger(__name__)

#: claims of one lane worked on at the same time: one is sending while the next is, or waits to be, claimed
CLAIMS_AT_ONCE = 2
#: fan-outs of one lane planned at the same time, each for as many notifications as waited
FAN_OUTS_AT_ONCE = 3
#: tasks that must go alone may wait here, rather than hold up their lane; they are ids only
ALONE_WAITING = 1_000
#: how long a task that failed waits before it is tried again
AFTER_FAILURE = timedelta(seconds=5)

Work = Callable[[Sequence[Task]], Awaitable[None]]


class Consumer:
    """Works on one lane until the queue is closed."""

    def __init__(self, lane: Lane, pipeline: Pipeline, sender: Sender) -> None:
        self._lane = lane
        self._pipeline = pipeline
        self._sender = sender
        self._group: asyncio.TaskGroup | None = None
        #: claims that did not wait for the queue
        self._sooner = 0
        sizes = pipeline.sizes
        self._desks = {
            TaskKind.FAN_OUT: Desk(
                self._guarded(self._fan_out), Room(FAN_OUTS_AT_ONCE, sizes.fan_outs, sizes.fan_outs)
            ),
            # what is claimed is sent at once: little waits here that another worker could claim
            TaskKind.DELIVER: Desk(self._guarded(self._deliver), Room(CLAIMS_AT_ONCE, sizes.claim, 0)),
            TaskKind.DELIVER_ALONE: Desk(self._guarded(self._deliver_alone), Room(1, 1, ALONE_WAITING)),
        }

    async def run(self) -> None:
        queue = self._pipeline.queue
        async with asyncio.TaskGroup() as group:
            self._group = group
            while tasks := await queue.take(self._lane, self._pipeline.sizes.claim):
                for kind, desk in self._desks.items():
                    if some := [task for task in tasks if task.kind is kind]:
                        await desk.put(group, some)
            # closed: what has not begun is for whoever comes next
            if left := [task for desk in self._desks.values() for task in desk.leave()]:
                await queue.again(left, at=self._pipeline.clock.now(), why="the worker stops")

    async def _fan_out(self, tasks: Sequence[Task]) -> None:
        refs = [task.ref for task in tasks]
        if self._lane is Lane.URGENT:
            with self._sender.urgent_work():
                following = await self._pipeline.fan_out_many(refs, self._send_now, urgent=True)
        else:
            following = await self._pipeline.fan_out_many(refs)
        # back to the end of the lane, so that a long audience does not hold up the others
        await self._pipeline.queue.publish(following)

    def _send_now(self, tasks: Sequence[Task]) -> None:
        """Send what was just planned, without the way through a shared queue: it takes longer than the planning.

        The queue is told all the same. Whoever takes it from there finds what is left, which mostly is nothing.
        """
        if self._pipeline.queue.shared and self._group is not None and self._sooner < CLAIMS_AT_ONCE:
            self._sooner += 1
            self._group.create_task(self._sent_now(tasks[: self._pipeline.sizes.claim]))

    async def _sent_now(self, tasks: Sequence[Task]) -> None:
        try:
            await self._deliver(tasks)
        except Exception as error:  # noqa: BLE001  # the queue has them, too, and says what is wrong
            log.debug("not_sent_at_once", tasks=len(tasks), problem=f"{type(error).__name__}: {error}"[:300])
            # whoever took them from there may have found them in our hands, and be done with them
            with suppress(BackendError):
                await self._pipeline.queue.publish(told_again(tasks, self._pipeline.clock.now()))
        finally:
            self._sooner -= 1

    async def _deliver(self, tasks: Sequence[Task]) -> None:
        await self._pipeline.deliver([task.ref for task in tasks], self._sender, urgent=self._lane is Lane.URGENT)

    async def _deliver_alone(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            await self._pipeline.deliver_alone(task.ref, self._sender, urgent=self._lane is Lane.URGENT)

    def _guarded(self, work: Work) -> Work:
        """Return work that tells the queue how it went, and never raises."""
        queue = self._pipeline.queue

        async def attempt(tasks: Sequence[Task]) -> None:
            try:
                await work(tasks)
            except Exception as error:  # the work is in the database and is tried again; the lane goes on
                if len(tasks) > 1 and not isinstance(error, BackendError):
                    # one of them is to blame, and must not take the others along
                    for task in tasks:
                        await attempt([task])
                    return
                if isinstance(error, BackendError):
                    log.warning("backend_away", lane=self._lane.value, problem=error.message)
                else:
                    log.exception("task_failed", lane=self._lane.value, tasks=[task.ref for task in tasks])
                later = self._pipeline.clock.now() + AFTER_FAILURE
                await queue.again(tasks, at=later, why=f"{type(error).__name__}: {error}"[:300])
            else:
                await queue.done(tasks)

        return attempt
