"""The shared queue: one BullMQ queue for each lane, on one Redis or Valkey."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

import structlog

from tidings.errors import Invalid
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import LaneStats
from tidings.queues.bullmq import JobSource
from tidings.queues.bullmq_commands import PREFIX, Job
from tidings.queues.bullmq_jobs import data_of, jobs_of, tasks_of
from tidings.redis_link import PROMPT, RedisLink

log = structlog.get_logger(__name__)

#: tries of one job: three repeats need four (facts: queue, 4); what then failed is told again by the database
MOST_TRIES = 4


def intake_name(prefix: str) -> str:
    """Return the name of the queue on which other services leave jobs."""
    return f"{{{prefix}-intake}}"


@dataclass(slots=True, eq=False)
class _Taken:
    """A job whose tasks are being worked on."""

    job: Job
    open: list[Task]
    failed: list[Task] = field(default_factory=list)
    #: seconds until the next try, and why there is one
    after: float = 0.0
    why: str = ""

    @property
    def settled(self) -> bool:
        return not self.open


class BullQueue:
    """Implements `ports.queue.Queue` for any number of processes. The tasks of a job are settled one by one."""

    shared = True

    def __init__(self, link: RedisLink, prefix: str, clock: Clock) -> None:
        """prefix: first part of the queues' names, `{<prefix>-<lane>}`. `release` closes the link."""
        self._link = link
        self._clock = clock
        self._epoch_key = f"{PREFIX}:{{{prefix}-epoch}}"
        #: asked how it stands; workers take from it with a source of their own
        self._intake = JobSource(link, intake_name(prefix))
        self._sources = {lane: JobSource(link, f"{{{prefix}-{lane.value}}}") for lane in LANES}
        self._taken: dict[Task, deque[_Taken]] = {}
        #: on their way to the failed set
        self._refusals: set[asyncio.Task[None]] = set()

    async def publish(self, tasks: Sequence[Task]) -> None:
        now = self._clock.now()
        async with self._link.within(PROMPT):
            for lane in LANES:
                if of_lane := [task for task in tasks if task.lane is lane]:
                    await self._sources[lane].add(jobs_of(of_lane), now)

    async def take(self, lane: Lane, limit: int) -> Sequence[Task]:
        source = self._sources[lane]
        while jobs := await source.take(limit):
            tasks = [task for job in jobs for task in self._opened(source, lane, job)]
            if tasks:
                return tasks
        return []

    async def done(self, tasks: Sequence[Task]) -> None:
        finished: dict[Lane, list[_Taken]] = {}
        units: dict[Lane, int] = {}
        for task in tasks:
            taken = self._settle(task)
            if taken is None:
                continue
            units[task.lane] = units.get(task.lane, 0) + 1
            if taken.settled and not taken.failed:
                finished.setdefault(task.lane, []).append(taken)
            elif taken.settled:
                await self._retry(task.lane, taken)
        for lane, count in units.items():
            await self._sources[lane].complete([taken.job for taken in finished.get(lane, [])], units=count)

    async def again(self, tasks: Sequence[Task], *, at: datetime, why: str) -> None:
        after = (at - self._clock.now()).total_seconds()
        for task in tasks:
            taken = self._settle(task)
            if taken is None:
                continue
            taken.failed.append(task)
            taken.after, taken.why = max(taken.after, after), why
            if taken.settled:
                await self._retry(task.lane, taken)

    async def epoch(self) -> str:
        async with self._link.within(PROMPT) as redis:
            known = await redis.get(self._epoch_key)
            if known is None:
                await redis.set(self._epoch_key, uuid4().hex, nx=True)
                known = await redis.get(self._epoch_key)
        return str(known)

    async def stats(self, lane: Lane) -> LaneStats:
        """In jobs; a job carries one batch of deliveries, or up to fifty notifications to plan."""
        return await self._sources[lane].stats()

    async def intake(self) -> LaneStats | None:
        return await self._intake.stats()

    async def tidy(self) -> None:
        for source in self._sources.values():
            await source.tidy()

    async def ping(self) -> None:
        await self._link.ping()

    async def close(self) -> None:
        # together: each may have to wait for a server that hangs
        await asyncio.gather(*(source.close() for source in self._sources.values()))

    async def release(self) -> None:
        if self._refusals:
            await asyncio.wait(self._refusals)
        for source in self._sources.values():
            await source.release()
        await self._link.close()

    def _opened(self, source: JobSource, lane: Lane, job: Job) -> list[Task]:
        """Return the tasks of a job; one that cannot be read fails with its reason and holds up nothing."""
        try:
            tasks = tasks_of(job.name, job.data, lane) if job.broken is None else []
            why = job.broken or "it carries nothing"
        except Invalid as error:
            tasks, why = [], error.message
        if not tasks:
            log.warning("job_refused", queue=source.name, job=job.id, why=why)
            refusal = asyncio.create_task(source.fail(job, why))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)
            return []
        taken = _Taken(job, list(tasks))
        for task in tasks:
            self._taken.setdefault(task, deque()).append(taken)
        return tasks

    def _settle(self, task: Task) -> _Taken | None:
        """Strike the task off its job; None if it was not taken from here."""
        jobs = self._taken.get(task)
        if not jobs:
            return None
        taken = jobs.popleft()
        if not jobs:
            del self._taken[task]
        taken.open.remove(task)
        return taken

    async def _retry(self, lane: Lane, taken: _Taken) -> None:
        source, job = self._sources[lane], taken.job
        if job.attempts_made + 1 >= MOST_TRIES:
            await source.fail(job, taken.why)
        else:
            await source.retry(job, after=taken.after, why=taken.why, data=data_of(taken.failed))
