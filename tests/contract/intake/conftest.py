"""An intake on a real Valkey and a real database of each kind; jobs are added with the stock client."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from bullmq import Job as StockJob  # type: ignore[import-untyped]  # ships no types
from bullmq import Queue as StockQueue

from tidings.flow.intake.accept import explicit_ids
from tidings.flow.intake.catalog import Catalog
from tidings.flow.intake.outside import Parts
from tidings.flow.pipeline import Pipeline, Sizes
from tidings.model.notification import Notification
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq import JobSource
from tidings.queues.local import LocalQueue
from tidings.redis_link import RedisLink
from tidings.stores.store import SqlStore
from tidings.testing.server import eventually
from tidings.wording import MinijinjaWording
from tidings.worker.intake import Capacity, Intake

NAME = "{test-intake}"
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
#: seconds that nothing takes unless it hangs
PATIENCE = 30.0


class Shop:
    """Another service that adds jobs, and the intakes that take them."""

    def __init__(self, redis_url: str, store: SqlStore) -> None:
        self.redis_url = redis_url
        self.store = store
        self.clock = SystemClock()
        self.queue = StockQueue(NAME, {"connection": redis_url})
        catalog = Catalog.of([core.pack], channels=("webpush",), known_channels=("webpush", "email", "sms"))
        wording = MinijinjaWording(catalog.filters, "https://shop.example")
        self.pipeline = Pipeline(store, LocalQueue(self.clock), catalog, wording, self.clock, sizes=Sizes())

    async def people(self, *people: User) -> None:
        async with self.store.begin() as tx:
            await self.store.users.upsert(tx, people, self.clock.now())

    async def add(self, name: str, data: object, **options: object) -> str:
        return str((await self.queue.add(name, data, options)).id)

    async def job(self, job_id: str) -> StockJob:
        """Return a job once it is finished."""

        async def finished() -> StockJob | None:
            job = await StockJob.fromId(self.queue, job_id)
            return job if job is not None and job.finishedOn else None

        return await eventually(finished, within=PATIENCE, pause=0.02)

    async def answer(self, job_id: str) -> Any:
        """Return what came back of a job that was carried out."""
        job = await self.job(job_id)
        # the reason of a try that failed stays with the job, so it says nothing here
        assert await self.queue.getJobState(job_id) == "completed", job.failedReason
        return job.returnvalue

    async def refusal(self, job_id: str) -> str:
        """Return why a job failed."""
        job = await self.job(job_id)
        assert await self.queue.getJobState(job_id) == "failed", job.returnvalue
        return str(job.failedReason)

    async def notifications(self) -> list[Notification]:
        """Return what was accepted, oldest first."""
        async with self.store.read() as tx:
            return list(reversed(await self.store.notifications.recent(tx, before=None, limit=500)))

    async def told(self) -> list[str]:
        """Return the user ids of all notifications, in order."""
        return [user_id for one in await self.notifications() for user_id in explicit_ids(one.audience)]

    @asynccontextmanager
    async def intake(
        self,
        *,
        single_jobs: int = 10,
        batch_jobs: int = 5,
        batch_size: int = 50,
        per_second: int | None = None,
        lock: float = 30.0,
    ) -> AsyncIterator[Intake]:
        """Run an intake for the time of the block, and stop it as a worker does."""
        link = RedisLink(self.redis_url)
        source = JobSource(link, NAME, limit_per_second=per_second, lock=lock)
        parts = Parts(self.store, self.clock, self.pipeline)
        capacity = Capacity(single_jobs, batch_jobs, batch_size)
        intake = Intake(source, parts, self.store, self.clock, capacity, random.random)
        running = asyncio.create_task(intake.run())
        try:
            yield intake
        finally:
            await intake.close()
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(running, return_exceptions=False)
            await source.release()
            await link.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> SqlStore:
    found: SqlStore = request.getfixturevalue("store" if request.param == "sqlite" else "postgres_store")
    return found


@pytest.fixture
async def open_shop() -> AsyncIterator[Callable[[str, SqlStore], Awaitable[Shop]]]:
    """Open shops with the users u0 to u9, on the Redis and the database given."""
    async with AsyncExitStack() as stack:

        async def opened(redis_url: str, store: SqlStore) -> Shop:
            found = Shop(redis_url, store)
            stack.push_async_callback(found.queue.close)
            await found.people(*(User(f"u{number}") for number in range(10)))
            return found

        yield opened


@pytest.fixture
async def shop(redis_url: str, any_store: SqlStore, open_shop: Callable[[str, SqlStore], Awaitable[Shop]]) -> Shop:
    """A shop with the users u0 to u9."""
    return await open_shop(redis_url, any_store)
