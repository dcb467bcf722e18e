"""Which queue a process gets: its own lanes, or the shared ones of a Redis."""

from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.queues.fallback import FallbackQueue
from tidings.queues.lanes import BullQueue
from tidings.queues.local import LocalQueue
from tidings.redis_link import RedisLink


def open_queue(redis_url: str | None, prefix: str, clock: Clock, *, consumes: bool) -> Queue:
    """Return the queue for a process. Nothing is connected yet.

    redis_url: as `redis_link.connection_options`; None = lanes in memory. prefix: first part of the queues' names.
    consumes: whether the process takes tasks (a worker) or only publishes (an API process). Raises ConfigError.
    """
    if redis_url is None:
        return LocalQueue(clock)
    return FallbackQueue(BullQueue(RedisLink(redis_url), prefix, clock), clock, consumes=consumes)
