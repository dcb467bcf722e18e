"""The consumer of one lane: receives tasks and processes them in batches per task kind."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.pipeline import Pipeline
from tidings.flow.tasks import for_republish
from tidings.micro_batcher import BatchingPool
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind

log = structlog.get_logger(__name__)

#: concurrent claims per lane: while one sends, the next is being claimed
MAX_CONCURRENT_CLAIMS = 2
#: concurrent fan-out batches per lane
MAX_CONCURRENT_FAN_OUTS = 3
#: DELIVER_ALONE tasks that may wait in memory, so that they do not block their lane
MAX_PENDING_ISOLATED = 1_000
#: how long a failed task waits for its next attempt
FAILURE_RETRY_DELAY = timedelta(seconds=5)

TaskHandler = Callable[[Sequence[Task]], Awaitable[None]]


class LaneConsumer:
    """Processes the tasks of one lane until the queue is stopped."""

    def __init__(self, lane: Lane, pipeline: Pipeline, sender: DeliverySender, database_health: BackendHealth) -> None:
        """database_health: receives each failure of the database."""
        self._lane = lane
        self._pipeline = pipeline
        self._sender = sender
        self._database_health = database_health
        self._group: asyncio.TaskGroup | None = None
        #: running deliveries that bypassed the queue
        self._local_deliveries = 0

    async def run(self) -> None:
        queue = self._pipeline.queue
        async with asyncio.TaskGroup() as group:
            self._group = group
            pools = self._create_pools(group)
            while tasks := await queue.receive(self._lane, self._pipeline.config.batches_per_claim):
                for kind, pool in pools.items():
                    if of_kind := [task for task in tasks if task.kind is kind]:
                        await pool.submit(of_kind)
            # the queue was stopped: return tasks that have not started, for another worker
            if unstarted := [task for pool in pools.values() for task in pool.take_back()]:
                await queue.nack(unstarted, retry_at=self._pipeline.clock.now(), why="the worker is shutting down")

    def _create_pools(self, group: asyncio.TaskGroup) -> Mapping[TaskKind, BatchingPool[Task]]:
        config = self._pipeline.config

        def create_pool(handler: TaskHandler, *, workers: int, max_batch: int, max_waiting: int) -> BatchingPool[Task]:
            return BatchingPool(
                self._with_ack(handler),
                workers=workers,
                max_batch=max_batch,
                max_waiting=max_waiting,
                start=group.create_task,
            )

        return {
            TaskKind.FAN_OUT: create_pool(
                self._fan_out,
                workers=MAX_CONCURRENT_FAN_OUTS,
                max_batch=config.fan_outs_per_step,
                max_waiting=config.fan_outs_per_step,
            ),
            # nothing waits here: another worker may be able to claim it now
            TaskKind.DELIVER: create_pool(
                self._deliver, workers=MAX_CONCURRENT_CLAIMS, max_batch=config.batches_per_claim, max_waiting=0
            ),
            TaskKind.DELIVER_ALONE: create_pool(
                self._deliver_alone, workers=1, max_batch=1, max_waiting=MAX_PENDING_ISOLATED
            ),
        }

    async def _fan_out(self, tasks: Sequence[Task]) -> None:
        refs = [task.ref for task in tasks]
        if self._lane is Lane.URGENT:
            with self._sender.urgent_work():
                next_tasks = await self._pipeline.fan_out.plan_next_pages(refs, self._deliver_locally, urgent=True)
        else:
            next_tasks = await self._pipeline.fan_out.plan_next_pages(refs)
        # at the end of the lane, so that a large audience does not block other notifications
        await self._pipeline.queue.publish(next_tasks)

    def _deliver_locally(self, tasks: Sequence[Task]) -> None:
        """Deliver newly planned tasks without the round trip through a shared queue, which takes longer than planning.

        The tasks are published as well. The worker that receives them claims what is left, which is usually nothing.
        """
        if (
            self._pipeline.queue.is_shared
            and self._group is not None
            and self._local_deliveries < MAX_CONCURRENT_CLAIMS
        ):
            self._local_deliveries += 1
            self._group.create_task(self._run_local_delivery(tasks[: self._pipeline.config.batches_per_claim]))

    async def _run_local_delivery(self, tasks: Sequence[Task]) -> None:
        try:
            await self._deliver(tasks)
        except Exception as error:  # noqa: BLE001  # the queue has the tasks, too; there a failure is logged
            log.debug("local_delivery_failed", tasks=len(tasks), error=f"{type(error).__name__}: {error}"[:300])
            # publish again: the worker that received them may have found them claimed here and acknowledged them
            with suppress(BackendError):
                await self._pipeline.queue.publish(for_republish(tasks, self._pipeline.clock.now()))
        finally:
            self._local_deliveries -= 1

    async def _deliver(self, tasks: Sequence[Task]) -> None:
        await self._pipeline.delivery_runner.deliver(
            [task.ref for task in tasks], self._sender, urgent=self._lane is Lane.URGENT
        )

    async def _deliver_alone(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            await self._pipeline.delivery_runner.deliver_separately(
                task.ref, self._sender, urgent=self._lane is Lane.URGENT
            )

    def _with_ack(self, handler: TaskHandler) -> TaskHandler:
        """Return a handler that acknowledges or rejects the tasks and never raises."""
        queue = self._pipeline.queue

        async def attempt(tasks: Sequence[Task]) -> None:
            try:
                await handler(tasks)
            except (
                Exception
            ) as error:  # whatever it is: the work is in the database and is retried, and the lane continues
                if len(tasks) > 1 and not isinstance(error, BackendError):
                    # one task may have caused the error: process each alone
                    for task in tasks:
                        await attempt([task])
                    return
                if isinstance(error, BackendError):
                    self._database_health.record_own_failure(error)
                else:
                    log.exception("task_failed", lane=self._lane.value, tasks=[task.ref for task in tasks])
                retry_at = self._pipeline.clock.now() + FAILURE_RETRY_DELAY
                await queue.nack(tasks, retry_at=retry_at, why=f"{type(error).__name__}: {error}"[:300])
            else:
                await queue.ack(tasks)

        return attempt
