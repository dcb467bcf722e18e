"""The shared queue: one BullMQ queue per lane, on one Redis or Valkey server."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

import structlog

from tidings.errors import ValidationFailed
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import LaneStats
from tidings.queues.bullmq_codec import decode_tasks, encode_data, encode_jobs
from tidings.queues.bullmq_commands import KEY_PREFIX, BullMQJob
from tidings.queues.bullmq_consumer import BullMQConsumer
from tidings.redis_client import FAST_TIMEOUT, RedisClient

log = structlog.get_logger(__name__)

#: attempts per job: three retries need four (decision 8, 4); afterwards the reconciler re-enqueues the work
MAX_ATTEMPTS = 4


def intake_queue_name(prefix: str) -> str:
    """Return the name of the queue to which other services add jobs."""
    return f"{{{prefix}-intake}}"


def probe_key(prefix: str) -> str:
    """Return the key that write probes set. prefix: first part of the queue names."""
    return f"{KEY_PREFIX}:{{{prefix}-epoch}}:probe"


@dataclass(slots=True, eq=False)
class _InFlightJob:
    """A fetched job with unfinished tasks."""

    job: BullMQJob
    open_tasks: list[Task]
    failed_tasks: list[Task] = field(default_factory=list)
    #: seconds until the next attempt
    retry_delay: float = 0.0
    #: why a task failed
    retry_reason: str = ""

    @property
    def is_finished(self) -> bool:
        return not self.open_tasks


class BullMQQueue:
    """Implements `ports.queue.Queue` for any number of processes.

    A job is finished once each of its tasks is acknowledged or rejected; the rejected ones are retried.
    """

    is_shared = True
    #: observed by `FailoverQueue`
    down_seconds: float | None = None

    def __init__(self, redis_client: RedisClient, prefix: str, clock: Clock) -> None:
        """prefix: first part of the queue names, `{<prefix>-<lane>}`. `aclose` closes `redis_client`."""
        self._redis_client = redis_client
        self._clock = clock
        self._instance_id_key = f"{KEY_PREFIX}:{{{prefix}-epoch}}"
        self._probe_key = probe_key(prefix)
        #: for statistics only; a worker fetches from the intake with its own consumer
        self._intake_consumer = BullMQConsumer(redis_client, intake_queue_name(prefix))
        self._consumers = {lane: BullMQConsumer(redis_client, f"{{{prefix}-{lane.value}}}") for lane in LANES}
        self._in_flight: dict[Task, deque[_InFlightJob]] = {}
        #: running calls that fail an invalid job
        self._failing_jobs: set[asyncio.Task[None]] = set()

    async def publish(self, tasks: Sequence[Task]) -> None:
        now = self._clock.now()
        async with self._redis_client.deadline(FAST_TIMEOUT):
            for lane in LANES:
                if of_lane := [task for task in tasks if task.lane is lane]:
                    await self._consumers[lane].add(encode_jobs(of_lane), now)

    async def receive(self, lane: Lane, limit: int) -> Sequence[Task]:
        consumer = self._consumers[lane]
        while jobs := await consumer.receive(limit):
            tasks = [task for job in jobs for task in self._decode(consumer, lane, job)]
            if tasks:
                return tasks
        return []

    async def ack(self, tasks: Sequence[Task]) -> None:
        finished: dict[Lane, list[_InFlightJob]] = {}
        units: dict[Lane, int] = {}
        for task in tasks:
            in_flight = self._finish_task(task)
            if in_flight is None:
                continue
            units[task.lane] = units.get(task.lane, 0) + 1
            if in_flight.is_finished and not in_flight.failed_tasks:
                finished.setdefault(task.lane, []).append(in_flight)
            elif in_flight.is_finished:
                await self._retry(task.lane, in_flight)
        for lane, count in units.items():
            jobs = [in_flight.job for in_flight in finished.get(lane, [])]
            await self._consumers[lane].complete(jobs, units=count)

    async def nack(self, tasks: Sequence[Task], *, retry_at: datetime, why: str) -> None:
        delay = (retry_at - self._clock.now()).total_seconds()
        for task in tasks:
            in_flight = self._finish_task(task)
            if in_flight is None:
                continue
            in_flight.failed_tasks.append(task)
            in_flight.retry_delay, in_flight.retry_reason = max(in_flight.retry_delay, delay), why
            if in_flight.is_finished:
                await self._retry(task.lane, in_flight)

    async def instance_id(self) -> str:
        async with self._redis_client.deadline(FAST_TIMEOUT) as redis:
            instance_id = await redis.get(self._instance_id_key)
            if instance_id is None:
                await redis.set(self._instance_id_key, uuid4().hex, nx=True)
                instance_id = await redis.get(self._instance_id_key)
        return str(instance_id)

    async def stats(self, lane: Lane) -> LaneStats:
        """Counts are in jobs. A job carries one batch of deliveries, or up to fifty notifications to plan."""
        return await self._consumers[lane].stats()

    async def external_stats(self) -> LaneStats | None:
        return await self._intake_consumer.stats()

    async def purge(self) -> None:
        for consumer in self._consumers.values():
            await consumer.purge()

    async def ping(self) -> None:
        await self._redis_client.probe_write(self._probe_key)

    async def stop(self) -> None:
        # concurrently: each call may have to wait for the timeout of a server that hangs
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers.values()))

    async def aclose(self) -> None:
        if self._failing_jobs:
            await asyncio.wait(self._failing_jobs)
        for consumer in self._consumers.values():
            await consumer.aclose()
        await self._redis_client.close()

    def _decode(self, consumer: BullMQConsumer, lane: Lane, job: BullMQJob) -> list[Task]:
        """Return the tasks of a job. A job that cannot be decoded is failed in the background."""
        try:
            tasks = decode_tasks(job.name, job.data, lane) if job.invalid_reason is None else []
            why = job.invalid_reason or "it contains no tasks"
        except ValidationFailed as error:
            tasks, why = [], error.message
        if not tasks:
            log.warning("lane_job_rejected", queue=consumer.name, job=job.id, why=why)
            failing = asyncio.create_task(consumer.fail(job, why))
            self._failing_jobs.add(failing)
            failing.add_done_callback(self._failing_jobs.discard)
            return []
        in_flight = _InFlightJob(job, list(tasks))
        for task in tasks:
            self._in_flight.setdefault(task, deque()).append(in_flight)
        return tasks

    def _finish_task(self, task: Task) -> _InFlightJob | None:
        """Remove the task from the open tasks of its job and return the job; None if it was not received here."""
        jobs = self._in_flight.get(task)
        if not jobs:
            return None
        in_flight = jobs.popleft()
        if not jobs:
            del self._in_flight[task]
        in_flight.open_tasks.remove(task)
        return in_flight

    async def _retry(self, lane: Lane, in_flight: _InFlightJob) -> None:
        consumer, job = self._consumers[lane], in_flight.job
        if job.attempts_made + 1 >= MAX_ATTEMPTS:
            await consumer.fail(job, in_flight.retry_reason)
        else:
            await consumer.retry(
                job, after=in_flight.retry_delay, why=in_flight.retry_reason, data=encode_data(in_flight.failed_tasks)
            )
