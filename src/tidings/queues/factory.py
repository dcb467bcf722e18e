"""Factories for the queue of a process, in memory or shared on Redis, and for the intake consumer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidings.backend_health import BackendHealth
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.queues.bullmq_consumer import BullMQConsumer
from tidings.queues.bullmq_queue import BullMQQueue, intake_queue_name
from tidings.queues.failover_queue import FailoverQueue
from tidings.queues.memory_queue import MemoryQueue
from tidings.redis_client import RedisClient

#: worker crashes after which a job of the intake fails, so that an operator can inspect it
MAX_STALLS = 10


def create_queue(redis_url: str | None, prefix: str, clock: Clock, *, is_consumer: bool) -> Queue:
    """Return the queue for a process. It connects at its first use.

    redis_url: as for `redis_client.connection_options`; None = lanes in memory. prefix: first part of the queue names.
    is_consumer: whether the process receives tasks (a worker) or only publishes (an API process). Raises ConfigError.
    """
    if redis_url is None:
        return MemoryQueue(clock)
    return FailoverQueue(BullMQQueue(RedisClient(redis_url), prefix, clock), clock, is_consumer=is_consumer)


@asynccontextmanager
async def open_intake_consumer(redis_url: str, prefix: str, *, jobs_per_second: int) -> AsyncIterator[BullMQConsumer]:
    """Yield a consumer of `{<prefix>-intake}`, the queue to which other services add jobs; close it after the block.

    redis_url: as for `create_queue`. jobs_per_second: over all processes; 0 = no limit. Raises ConfigError.
    """
    redis_client = RedisClient(redis_url, backend="job_intake")
    consumer = BullMQConsumer(
        redis_client,
        intake_queue_name(prefix),
        limit_per_second=jobs_per_second or None,
        max_stalls=MAX_STALLS,
        health=BackendHealth("job_intake"),
    )
    try:
        yield consumer
    finally:
        await consumer.stop()
        await consumer.aclose()
        await redis_client.close()
