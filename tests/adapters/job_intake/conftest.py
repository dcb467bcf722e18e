"""A job intake on Valkey and on each kind of database; jobs are added with the stock BullMQ client."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from bullmq import Job as StockJob  # type: ignore[import-untyped]  # ships no types
from bullmq import Queue as StockQueue
from tests.support.server import eventually

from tidings.backend_health import BackendHealth
from tidings.flow.accept.external_jobs import ExternalJobAcceptor
from tidings.flow.catalog import Catalog
from tidings.flow.pipeline import Pipeline, PipelineConfig
from tidings.model.audience import mentioned_user_ids
from tidings.model.notification import Notification
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq_consumer import BullMQConsumer
from tidings.queues.memory_queue import MemoryQueue
from tidings.redis_client import RedisClient
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.stores.store import SqlStore
from tidings.worker.job_intake import IntakeLimits, JobIntake

NAME = "{test-intake}"
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
#: seconds: longer than any step takes unless it hangs
TIMEOUT = 30.0


class Shop:
    """Another service that adds jobs, and the intakes that accept them."""

    def __init__(self, redis_url: str, store: SqlStore) -> None:
        self.redis_url = redis_url
        self.store = store
        self.clock = SystemClock()
        self.queue = StockQueue(NAME, {"connection": redis_url})
        catalog = Catalog.from_packs([core.pack], channels=("webpush",), known_channels=("webpush", "email", "sms"))
        renderer = MinijinjaRenderer(catalog.filters, "https://shop.example")
        self.pipeline = Pipeline(store, MemoryQueue(self.clock), catalog, renderer, self.clock, config=PipelineConfig())

    async def add_users(self, *users: User) -> None:
        async with self.store.transaction() as tx:
            await self.store.users.upsert(tx, users, self.clock.now())

    async def add(self, name: str, data: object, **options: object) -> str:
        return str((await self.queue.add(name, data, options)).id)

    async def finished_job(self, job_id: str) -> StockJob:
        """Return a job once it is finished."""

        async def finished() -> StockJob | None:
            job = await StockJob.fromId(self.queue, job_id)
            return job if job is not None and job.finishedOn else None

        return await eventually(finished, within=TIMEOUT, pause=0.02)

    async def result(self, job_id: str) -> Any:
        """Return the return value of a completed job."""
        job = await self.finished_job(job_id)
        # `failedReason` of an earlier attempt stays on the job, so only the state is checked
        assert await self.queue.getJobState(job_id) == "completed", job.failedReason
        return job.returnvalue

    async def failure_reason(self, job_id: str) -> str:
        """Return why a job failed."""
        job = await self.finished_job(job_id)
        assert await self.queue.getJobState(job_id) == "failed", job.returnvalue
        return str(job.failedReason)

    async def notifications(self) -> list[Notification]:
        """Return the accepted notifications, oldest first."""
        async with self.store.read_snapshot() as tx:
            return list(reversed(await self.store.notifications.list_page(tx, before=None, limit=500)))

    async def notified_users(self) -> list[str]:
        """Return the user ids of all notifications, in order."""
        audiences = [notification.audience for notification in await self.notifications()]
        return [user_id for audience in audiences for user_id in mentioned_user_ids(audience)]

    @asynccontextmanager
    async def intake(
        self,
        *,
        single_jobs: int = 10,
        batch_jobs: int = 5,
        batch_size: int = 50,
        per_second: int | None = None,
        lock: float = 30.0,
        channels: Collection[str] = ("webpush", "email", "sms"),
    ) -> AsyncIterator[JobIntake]:
        """Run an intake for the duration of the block, and stop it as a worker does."""
        redis_client = RedisClient(self.redis_url, backend="job_intake")
        health = BackendHealth("job_intake")
        source = BullMQConsumer(redis_client, NAME, limit_per_second=per_second, lock_duration=lock, health=health)
        parts = ExternalJobAcceptor(self.store, self.clock, self.pipeline)
        capacity = IntakeLimits(single_jobs, batch_jobs, batch_size)
        intake = JobIntake(
            source, parts, self.store, self.clock, capacity, random.random, channels, BackendHealth("database")
        )
        running = asyncio.create_task(intake.run())
        try:
            yield intake
        finally:
            await intake.stop()
            async with asyncio.timeout(TIMEOUT):
                await asyncio.gather(running, return_exceptions=False)
            await source.aclose()
            await redis_client.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> SqlStore:
    store: SqlStore = request.getfixturevalue("store" if request.param == "sqlite" else "postgres_store")
    return store


@pytest.fixture
async def open_shop() -> AsyncIterator[Callable[[str, SqlStore], Awaitable[Shop]]]:
    """Return a function that opens shops with the users u0 to u9 on a given Redis and database."""
    async with AsyncExitStack() as stack:

        async def open_with_users(redis_url: str, store: SqlStore) -> Shop:
            shop = Shop(redis_url, store)
            stack.push_async_callback(shop.queue.close)
            await shop.add_users(*(User(f"u{number}") for number in range(10)))
            return shop

        yield open_with_users


@pytest.fixture
async def shop(redis_url: str, any_store: SqlStore, open_shop: Callable[[str, SqlStore], Awaitable[Shop]]) -> Shop:
    """A shop with the users u0 to u9."""
    return await open_shop(redis_url, any_store)
