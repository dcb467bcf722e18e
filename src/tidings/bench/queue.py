"""`tidings bench queue`: the queue alone, one publisher and one taker of one lane, and how fast a task is there.

Tasks are ids, and nothing is done with them. The shared queue carries a batch of deliveries in a job of its own, and up
to fifty notifications to plan in one.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tidings.bench.backends import Backends, backends
from tidings.bench.figures import Latency, camel
from tidings.bench.progress import progress
from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.ports.queue import Queue
from tidings.queues.local import LocalQueue

#: tasks published together, as after a page of an audience, or by the relay
_TOGETHER = 200
#: tasks that are taken together, as a worker does (`flow.pipeline.Sizes.claim`)
_TAKEN = 5


@dataclass(frozen=True, slots=True)
class Load:
    """Tasks of one kind, first published, then taken and done."""

    tasks: int
    jobs: int
    published_per_second: float
    #: taken and done, by one taker
    tasks_per_second: float
    jobs_per_second: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of `tidings bench queue` measured. Field names are those of the JSON output, in snake case."""

    queue: str
    #: batches of deliveries: a job each
    batches: Load
    #: notifications to plan
    plans: Load
    #: one task on an idle queue: published → in the hands of who waits for it
    latency_ms: Latency
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return camel(asdict(self))


async def run(*, tasks: int, singles: int = 500, folder: Path | None = None) -> Figures:
    """Measure `tasks` tasks of each kind, and `singles` of them one by one.

    The queue in memory, or that of the Redis which `TIDINGS_REDIS` names, under a name of its own. folder: as in
    `bench push`. Raises BackendError when Redis does not answer.
    """
    async with AsyncExitStack() as stack:
        data = stack.enter_context(TemporaryDirectory(dir=folder, prefix="tidings-bench-"))
        chosen = await stack.enter_async_context(backends(Path(data)))
        queue = _opened(chosen)
        stack.push_async_callback(queue.release)
        stack.push_async_callback(queue.close)
        await queue.ping()
        return Figures(
            queue=chosen.queue,
            latency_ms=await _latency(queue, singles),
            batches=await _load(queue, TaskKind.DELIVER, Lane.NORMAL, tasks),
            plans=await _load(queue, TaskKind.FAN_OUT, Lane.HIGH, tasks),
            cores=os.cpu_count() or 1,
        )


def _opened(chosen: Backends) -> Queue:
    settings = chosen.settings
    if settings.redis is None:
        return LocalQueue(SystemClock())
    # loads what speaks to Redis
    from tidings.queues.opened import open_queue

    return open_queue(settings.redis, settings.queue_prefix, SystemClock(), consumes=True)


async def _load(queue: Queue, kind: TaskKind, lane: Lane, count: int) -> Load:
    tasks = _tasks(kind, lane, count)
    started = time.perf_counter()
    for start in range(0, count, _TOGETHER):
        await queue.publish(tasks[start : start + _TOGETHER])
    published = time.perf_counter() - started
    jobs = (await queue.stats(lane)).waiting
    done = 0
    started = time.perf_counter()
    with progress(f"Taking {count} tasks", count) as tell:
        while done < count:
            taken = await queue.take(lane, _TAKEN)
            await queue.done(taken)
            done += len(taken)
            if tell is not None:
                tell(done)
    seconds = time.perf_counter() - started
    return Load(count, jobs, round(count / published, 1), round(count / seconds, 1), round(jobs / seconds, 1))


async def _latency(queue: Queue, count: int) -> Latency:
    """Publish one task at a time, each when the last one was taken by somebody who waits."""
    took = []
    for task in _tasks(TaskKind.DELIVER, Lane.URGENT, count):
        taking = asyncio.create_task(_taken(queue))
        await asyncio.sleep(0.002)  # long enough for the taker to be blocked on the queue
        sent = time.perf_counter()
        await queue.publish([task])
        took.append((await taking - sent) * 1000)
    return Latency.of(took)


async def _taken(queue: Queue) -> float:
    """Take what comes, and return when it came."""
    tasks = await queue.take(Lane.URGENT, _TAKEN)
    at = time.perf_counter()
    await queue.done(tasks)
    return at


def _tasks(kind: TaskKind, lane: Lane, count: int) -> Sequence[Task]:
    now: datetime = SystemClock().now()
    ids = (new_id(now) for _ in range(count))
    return [Task(one, kind, one, lane, now) for one in ids]
