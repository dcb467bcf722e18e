"""Which queue a process gets: its own lanes, or the shared ones of a Redis; and the queue that others put jobs on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.queues.bullmq import JobSource
from tidings.queues.fallback import FallbackQueue
from tidings.queues.lanes import BullQueue, intake_name
from tidings.queues.local import LocalQueue
from tidings.redis_link import RedisLink

#: deaths of its worker after which a job from outside is to blame: it fails, and is there for people to look at
MOST_STALLS = 10


def open_queue(redis_url: str | None, prefix: str, clock: Clock, *, consumes: bool) -> Queue:
    """Return the queue for a process. Nothing is connected yet.

    redis_url: as `redis_link.connection_options`; None = lanes in memory. prefix: first part of the queues' names.
    consumes: whether the process takes tasks (a worker) or only publishes (an API process). Raises ConfigError.
    """
    if redis_url is None:
        return LocalQueue(clock)
    return FallbackQueue(BullQueue(RedisLink(redis_url), prefix, clock), clock, consumes=consumes)


@asynccontextmanager
async def opened_intake(redis_url: str, prefix: str, *, jobs_per_second: int) -> AsyncIterator[JobSource]:
    """Give the queue `{<prefix>-intake}`, on which other services put jobs; closed at the end of the block.

    redis_url: as for `open_queue`; jobs_per_second: over all processes, 0 = no limit. Raises ConfigError.
    """
    link = RedisLink(redis_url, what="the intake")
    source = JobSource(link, intake_name(prefix), limit_per_second=jobs_per_second or None, most_stalls=MOST_STALLS)
    try:
        yield source
    finally:
        await source.close()
        await source.release()
        await link.close()
