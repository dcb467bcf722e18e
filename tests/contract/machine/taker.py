"""One process's end of the queue: the real source of jobs, on a connection that can break at any moment."""

from datetime import timedelta
from enum import Enum, auto
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as NotConnected

from tidings.queues.bullmq import JobSource
from tidings.queues.bullmq_commands import Job
from tidings.redis_link import RedisLink, connection_options

NAME = "{machine-jobs}"
LIMIT, WINDOW = 4, timedelta(milliseconds=50)
#: silences after which a job is handed out as broken
MOST_STALLS = 1


class Fault(Enum):
    """What goes wrong with the next round trip."""

    NONE = auto()
    NOT_SENT = auto()
    REPLY_LOST = auto()


class FaultyRedis(Redis):
    """A client whose connection can break before the server hears something, or before it is heard itself."""

    fault = Fault.NONE

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipe = super().pipeline(transaction, shard_hint)
        execute = pipe.execute

        async def broken(raise_on_error: bool = True) -> list[Any]:
            if self.fault is Fault.NOT_SENT:
                self.fault = Fault.NONE
                raise NotConnected("of a test, before it was sent")
            answers = await execute(raise_on_error)
            if self.fault is Fault.REPLY_LOST:
                self.fault = Fault.NONE
                raise NotConnected("of a test, after it was done")
            return answers

        pipe.execute = broken  # type: ignore[method-assign]  # of this one object
        return pipe


class Taker:
    """One process's end of the queue."""

    def __init__(self, url: str) -> None:
        self.link = RedisLink(url)
        client = FaultyRedis.from_url(url, **connection_options(url))
        assert isinstance(client, FaultyRedis)
        self.client = self.link.client = client
        self.source = JobSource(self.link, NAME, limit_per_second=LIMIT, most_stalls=MOST_STALLS)
        # windows that pass while a test runs
        self.source._commands._active_options["limiter"] = {
            "max": LIMIT,
            "duration": WINDOW // timedelta(milliseconds=1),
        }
        self.jobs: list[Job] = []

    async def end(self) -> None:
        await self.source.close()
        await self.source.release()
        await self.link.close()
