"""The BullMQ consumer of one process, on a Redis connection with injected faults."""

from datetime import timedelta
from enum import Enum, auto
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as NotConnected

from tidings.queues.bullmq_commands import BullMQJob
from tidings.queues.bullmq_consumer import BullMQConsumer
from tidings.redis_client import RedisClient, connection_options

QUEUE_NAME = "{machine-jobs}"
RATE_LIMIT, RATE_WINDOW = 4, timedelta(milliseconds=50)
#: stalls after which a job is delivered as broken
MAX_STALLS = 1


class ConnectionFault(Enum):
    """The fault of the next round trip."""

    NONE = auto()
    NOT_SENT = auto()
    REPLY_LOST = auto()


class FaultyRedis(Redis):
    """A Redis client whose connection can break before a command is sent or before its reply arrives."""

    next_fault = ConnectionFault.NONE

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipe = super().pipeline(transaction, shard_hint)
        execute = pipe.execute

        async def execute_with_fault(raise_on_error: bool = True) -> list[Any]:
            if self.next_fault is ConnectionFault.NOT_SENT:
                self.next_fault = ConnectionFault.NONE
                raise NotConnected("injected before sending")
            replies = await execute(raise_on_error)
            if self.next_fault is ConnectionFault.REPLY_LOST:
                self.next_fault = ConnectionFault.NONE
                raise NotConnected("injected after execution")
            return replies

        pipe.execute = execute_with_fault  # type: ignore[method-assign]  # on this instance only
        return pipe


class JobConsumer:
    """One process's consumer, with the jobs it holds."""

    def __init__(self, url: str) -> None:
        self.redis = RedisClient(url)
        client = FaultyRedis.from_url(url, **connection_options(url))
        assert isinstance(client, FaultyRedis)
        self.faulty_client = self.redis.client = client
        self.consumer = BullMQConsumer(self.redis, QUEUE_NAME, limit_per_second=RATE_LIMIT, max_stalls=MAX_STALLS)
        # short windows, so that several pass during a test
        self.consumer._client._active_options["limiter"] = {
            "max": RATE_LIMIT,
            "duration": RATE_WINDOW // timedelta(milliseconds=1),
        }
        self.jobs: list[BullMQJob] = []

    async def close(self) -> None:
        await self.consumer.stop()
        await self.consumer.aclose()
        await self.redis.close()
