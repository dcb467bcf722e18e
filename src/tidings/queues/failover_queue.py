"""The shared queue with a local fallback: in-memory lanes that a worker uses while the shared queue is unavailable."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import LaneStats, Queue
from tidings.queues.memory_queue import MemoryQueue

#: seconds between probes of an unavailable shared queue
PROBE_INTERVAL = 1.0


class FailoverQueue:
    """Implements `ports.queue.Queue` over a shared queue that may become unavailable.

    During an outage a task may be handed out twice. This is harmless, because a worker claims rows in the database.
    """

    is_shared = True

    def __init__(self, shared_queue: Queue, clock: Clock, *, is_consumer: bool) -> None:
        """is_consumer: whether this process receives tasks. If not, `publish` raises BackendError during an outage."""
        self._shared_queue = shared_queue
        self._clock = clock
        self._local_queue = MemoryQueue(clock)
        self._is_consumer = is_consumer
        self._health = BackendHealth("queue")
        self._probe_task: asyncio.Task[None] | None = None
        self._queues: tuple[Queue, Queue] = (shared_queue, self._local_queue)
        self._is_stopped = False
        #: received from a queue and not yet returned to a caller
        self._prefetched: dict[Lane, list[Task]] = {lane: [] for lane in LANES}
        #: per lane, the running `receive` call of each queue
        self._receive_tasks: dict[Lane, dict[Queue, asyncio.Task[None]]] = {lane: {} for lane in LANES}

    @property
    def is_down(self) -> bool:
        """Whether the shared queue is unavailable and is being probed."""
        return not self._health.is_available

    @property
    def down_seconds(self) -> float | None:
        return self._health.down_seconds

    async def publish(self, tasks: Sequence[Task]) -> None:
        if not self.is_down:
            try:
                await self._shared_queue.publish(tasks)
            except BackendError as error:
                self._mark_down(error)
            else:
                return
        if not self._is_consumer:
            raise BackendError(
                "the queue is unavailable; the work stays in the outbox", retry_after=PROBE_INTERVAL, backend="queue"
            )
        await self._local_queue.publish(tasks)

    async def receive(self, lane: Lane, limit: int) -> Sequence[Task]:
        while not self._prefetched[lane] and not self._is_stopped:
            receiving = self._receive_tasks[lane]
            for queue in self._queues:
                if queue not in receiving:
                    receiving[queue] = asyncio.create_task(self._prefetch(lane, queue.receive(lane, limit)))
            # The slower call keeps running for the next caller: to cancel it could mean to wait for a shared queue that
            # hangs. If this call is cancelled, both keep running.
            done, _ = await asyncio.wait(receiving.values(), return_when=asyncio.FIRST_COMPLETED)
            self._receive_tasks[lane] = {queue: call for queue, call in receiving.items() if call not in done}
            for call in done:
                call.result()
        if self._is_stopped:
            return []
        tasks, self._prefetched[lane] = self._prefetched[lane][:limit], self._prefetched[lane][limit:]
        return tasks

    async def ack(self, tasks: Sequence[Task]) -> None:
        local, shared = self._split_by_origin(tasks)
        await self._local_queue.ack(local)
        await self._shared_queue.ack(shared)

    async def nack(self, tasks: Sequence[Task], *, retry_at: datetime, why: str) -> None:
        local, shared = self._split_by_origin(tasks)
        await self._local_queue.nack(local, retry_at=retry_at, why=why)
        await self._shared_queue.nack(shared, retry_at=retry_at, why=why)

    async def instance_id(self) -> str:
        """Return the id of the shared queue, so that a reset is detected after an outage."""
        try:
            return await self._shared_queue.instance_id()
        except BackendError as error:
            self._mark_down(error)
            raise

    async def stats(self, lane: Lane) -> LaneStats:
        """Return the sum of both queues. During an outage, a consumer gets the statistics of its local lanes."""
        local = await self._local_queue.stats(lane)
        if self.is_down:
            if not self._is_consumer:
                raise BackendError("the queue is unavailable", retry_after=PROBE_INTERVAL, backend="queue")
            return local
        try:
            shared = await self._shared_queue.stats(lane)
        except BackendError as error:
            self._mark_down(error)
            if not self._is_consumer:
                raise
            return local
        return LaneStats(
            waiting=shared.waiting + local.waiting,
            active=shared.active + local.active,
            delayed=shared.delayed + local.delayed,
            failed=shared.failed + local.failed,
            completed=shared.completed + local.completed,
            oldest_published_at=min(
                (stats.oldest_published_at for stats in (shared, local) if stats.oldest_published_at), default=None
            ),
            rate=shared.rate + local.rate,
        )

    async def external_stats(self) -> LaneStats | None:
        return None if self.is_down else await self._shared_queue.external_stats()

    async def purge(self) -> None:
        await self._shared_queue.purge()

    async def ping(self) -> None:
        try:
            await self._shared_queue.ping()
        except BackendError as error:
            self._mark_down(error)
            raise

    async def stop(self) -> None:
        self._is_stopped = True
        await asyncio.gather(self._local_queue.stop(), self._shared_queue.stop())
        if calls := [call for of_lane in self._receive_tasks.values() for call in of_lane.values()]:
            await asyncio.wait(calls)
        unstarted = [task for of_lane in self._prefetched.values() for task in of_lane]
        self._prefetched = {lane: [] for lane in LANES}
        await self.nack(unstarted, retry_at=self._clock.now(), why="the worker stopped before it started the task")

    async def aclose(self) -> None:
        if self._probe_task is not None:
            self._probe_task.cancel()
            await asyncio.wait([self._probe_task])
        await self._shared_queue.aclose()

    def _mark_down(self, error: BackendError) -> None:
        if self._health.record_failure(error):
            self._probe_task = asyncio.create_task(self._probe_until_available())

    async def _probe_until_available(self) -> None:
        while not self._health.is_available:
            await asyncio.sleep(PROBE_INTERVAL)
            try:
                await self._shared_queue.ping()
            except BackendError as error:
                self._health.record_failure(error)
            else:
                self._health.record_success()
        self._probe_task = None

    def _split_by_origin(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Return the tasks of the local lanes and those of the shared queue."""
        local = [task for task in tasks if self._local_queue.has_in_flight(task)]
        is_local = set(local)
        return local, [task for task in tasks if task not in is_local]

    async def _prefetch(self, lane: Lane, receiving: Awaitable[Sequence[Task]]) -> None:
        # read the list after the wait: other callers take from it meanwhile
        tasks = await receiving
        self._prefetched[lane] += tasks
