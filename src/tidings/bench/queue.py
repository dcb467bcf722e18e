"""`tidings bench queue`: throughput and latency of the queue alone, with one publisher and one consumer of one lane.

Tasks are acknowledged without being executed. On the shared queue a BullMQ job carries one delivery batch, or up to
fifty fan-out tasks.
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

from tidings.bench.backends import Backends, select_backends
from tidings.bench.report import Latency, show_progress, to_camel_case
from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.ports.queue import Queue
from tidings.queues.memory_queue import MemoryQueue

#: tasks published together, as after a page of an audience, or by the outbox relay
_PUBLISH_BATCH = 200
#: tasks received together, as by a worker (`PipelineConfig.batches_per_claim`)
_RECEIVE_BATCH = 5


@dataclass(frozen=True, slots=True)
class ThroughputResult:
    """Figures of tasks of one kind that were all published, then received and acknowledged."""

    tasks: int
    #: BullMQ jobs that carried the tasks
    jobs: int
    published_per_second: float
    #: received and acknowledged by one consumer
    tasks_per_second: float
    jobs_per_second: float


@dataclass(frozen=True, slots=True)
class QueueBenchResult:
    """The figures of one run of `tidings bench queue`. Field names are those of the JSON output, in snake case."""

    queue: str
    #: delivery tasks, one BullMQ job each
    batches: ThroughputResult
    #: fan-out tasks
    plans: ThroughputResult
    #: single tasks on an idle queue, from publishing to receipt by a waiting consumer
    latency_ms: Latency
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(*, tasks: int, singles: int = 500, folder: Path | None = None) -> QueueBenchResult:
    """Measure `tasks` tasks of each kind, and the latency of `singles` single tasks.

    The queue is in memory, or in the Redis that `TIDINGS_REDIS` names, with a random prefix. The folder is that of
    `bench.push.run`. Raises BackendError when Redis does not respond.
    """
    async with AsyncExitStack() as stack:
        data = stack.enter_context(TemporaryDirectory(dir=folder, prefix="tidings-bench-"))
        backends = await stack.enter_async_context(select_backends(Path(data)))
        queue = _create_queue(backends)
        stack.push_async_callback(queue.aclose)
        stack.push_async_callback(queue.stop)
        await queue.ping()
        return QueueBenchResult(
            queue=backends.queue,
            latency_ms=await _measure_latency(queue, singles),
            batches=await _measure_throughput(queue, TaskKind.DELIVER, Lane.NORMAL, tasks),
            plans=await _measure_throughput(queue, TaskKind.FAN_OUT, Lane.HIGH, tasks),
            cores=os.cpu_count() or 1,
        )


def _create_queue(backends: Backends) -> Queue:
    settings = backends.settings
    if settings.redis is None:
        return MemoryQueue(SystemClock())
    # imported here because runs without Redis do not need it
    from tidings.queues.factory import create_queue

    return create_queue(settings.redis, settings.queue_prefix, SystemClock(), is_consumer=True)


async def _measure_throughput(queue: Queue, kind: TaskKind, lane: Lane, count: int) -> ThroughputResult:
    tasks = _build_tasks(kind, lane, count)
    started = time.perf_counter()
    for start in range(0, count, _PUBLISH_BATCH):
        await queue.publish(tasks[start : start + _PUBLISH_BATCH])
    publish_seconds = time.perf_counter() - started
    jobs = (await queue.stats(lane)).waiting
    done = 0
    started = time.perf_counter()
    with show_progress(f"Receiving {count} tasks", count) as report:
        while done < count:
            received = await queue.receive(lane, _RECEIVE_BATCH)
            await queue.ack(received)
            done += len(received)
            if report is not None:
                report(done)
    receive_seconds = time.perf_counter() - started
    return ThroughputResult(
        count,
        jobs,
        round(count / publish_seconds, 1),
        round(count / receive_seconds, 1),
        round(jobs / receive_seconds, 1),
    )


async def _measure_latency(queue: Queue, count: int) -> Latency:
    """Publish one task at a time while a consumer waits, each after the previous one was received."""
    latencies_ms = []
    for task in _build_tasks(TaskKind.DELIVER, Lane.URGENT, count):
        receiving = asyncio.create_task(_receive_one(queue))
        await asyncio.sleep(0.002)  # long enough for the consumer to block on the queue
        published_at = time.perf_counter()
        await queue.publish([task])
        latencies_ms.append((await receiving - published_at) * 1000)
    return Latency.from_milliseconds(latencies_ms)


async def _receive_one(queue: Queue) -> float:
    """Receive and acknowledge tasks; return the time of receipt."""
    tasks = await queue.receive(Lane.URGENT, _RECEIVE_BATCH)
    received_at = time.perf_counter()
    await queue.ack(tasks)
    return received_at


def _build_tasks(kind: TaskKind, lane: Lane, count: int) -> Sequence[Task]:
    now: datetime = SystemClock().now()
    ids = (new_id(now) for _ in range(count))
    return [Task(task_id, kind, task_id, lane, now) for task_id in ids]
