"""Pitfalls of BullMQ's Python package: each scenario shows a defect of the stock class and its absence in ours."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from importlib.metadata import requires, version
from typing import Any

import pytest
from bullmq import Queue as StockQueue  # type: ignore[import-untyped]  # ships no types
from bullmq import QueueEvents as StockEvents
from bullmq import Worker as StockWorker
from bullmq.backends import RedisBackend  # type: ignore[import-untyped]
from packaging.requirements import Requirement

from tidings.errors import BackendError
from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq_codec import NewJob
from tidings.queues.bullmq_commands import KEEP_COMPLETED
from tidings.queues.bullmq_consumer import BullMQConsumer
from tidings.queues.bullmq_queue import MAX_ATTEMPTS, BullMQQueue
from tidings.redis_client import RedisClient
from tidings.testing.valkey import ValkeyServer

# closing a stock class leaves sockets open
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

FIXED = "the stock class has been fixed; remove the work-around"
NAME = "{test-pitfall}"
TIMEOUT = 15.0

Consumers = Callable[..., BullMQConsumer]
Processor = Callable[[Any, str], Awaitable[object]]


@pytest.fixture(autouse=True)
def _collect_leaked_sockets() -> Iterator[None]:
    """Raise warnings about sockets leaked by the stock classes here, not in a test of another file."""
    yield
    gc.collect()


def job(due_in: float = 0) -> NewJob:
    now = SystemClock().now()
    return NewJob(new_id(now), "a", {"v": 1}, now + timedelta(seconds=due_in))


async def add(consumer: BullMQConsumer, *jobs: NewJob) -> None:
    await consumer.add(jobs, SystemClock().now())


async def complete_jobs(consumer: BullMQConsumer, count: int) -> float:
    """Receive and complete `count` jobs; return the duration in seconds."""
    started, remaining = time.monotonic(), count
    async with asyncio.timeout(TIMEOUT):
        while remaining > 0:
            jobs = await consumer.receive(50)
            await consumer.complete(jobs)
            remaining -= len(jobs)
    return time.monotonic() - started


def stock_worker(redis_url: str, processor: Processor, **options: Any) -> StockWorker:
    worker = StockWorker("stock", processor, {"connection": redis_url, **options})
    worker.on("error", lambda *_: None)
    return worker


async def close_stock_worker(worker: StockWorker) -> None:
    """Close a stock worker that may be stuck."""
    await worker.close(force=True)
    await worker.backend.close()


class CountingProcessor:
    """A job processor that counts, and signals when it has received enough jobs."""

    def __init__(self, target_count: int) -> None:
        self.jobs: list[Any] = []
        self._target_count = target_count
        self._reached = asyncio.Event()

    async def __call__(self, job: Any, token: str) -> None:
        self.jobs.append(job)
        if len(self.jobs) >= self._target_count:
            self._reached.set()

    async def has_reached_target(self, seconds: float) -> bool:
        """Return whether the target count is reached within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._reached.wait()
        except TimeoutError:
            return False
        return True


@pytest.mark.extended
async def test_1_a_wait_longer_than_the_clients_timeout_misses_no_job(
    redis_url: str, stock: StockQueue, consumers: Consumers
) -> None:
    consumer, processor = consumers(), CountingProcessor(1)
    worker = stock_worker(redis_url, processor)
    await stock.add("a", {}, {"delay": 5400})
    await add(consumer, job(due_in=5.4))
    ours = asyncio.create_task(complete_jobs(consumer, 1))
    assert not await processor.has_reached_target(6.4), FIXED
    assert 5.2 < await ours < 6.2
    await close_stock_worker(worker)


@pytest.mark.extended
async def test_2_the_rate_limiters_pause_is_honoured(redis_url: str, stock: StockQueue, consumers: Consumers) -> None:
    processor = CountingProcessor(15)
    await stock.addBulk([{"name": "a", "data": {}} for _ in range(15)])
    worker = stock_worker(redis_url, processor, limiter={"max": 5, "duration": 1000})
    consumer = consumers(limit_per_second=5)
    await add(consumer, *(job() for _ in range(15)))
    ours = asyncio.create_task(complete_jobs(consumer, 15))
    assert not await processor.has_reached_target(3.5), FIXED
    assert 1.9 < await ours < 3.5
    await close_stock_worker(worker)


@pytest.mark.extended
async def test_3_closing_leaves_no_unreceived_job_active(
    redis_url: str, stock: StockQueue, consumers: Consumers
) -> None:
    async def process_briefly(_job: Any, _token: str) -> None:
        await asyncio.sleep(0.01)

    active_count = 0
    for tenths in range(1, 11):
        await stock.addBulk([{"name": "a", "data": {}} for _ in range(25)])
        worker = stock_worker(redis_url, process_briefly, concurrency=10, autorun=False)
        running = asyncio.create_task(worker.run())
        # each round closes the worker at another point of its work
        await asyncio.wait([running], timeout=0.003 * tenths)
        await worker.close()
        await asyncio.wait([running], timeout=0.2)
        running.cancel()
        await asyncio.wait([running])
        # work done after the close has reopened the connections
        await worker.backend.close()
        active_count += await stock.getJobCountByTypes("active")
        if active_count:
            break
    assert active_count > 0, FIXED

    for steps in range(40):
        consumer = consumers()
        await add(consumer, *(job() for _ in range(5)))
        receiving = asyncio.create_task(consumer.receive(5))
        for _ in range(steps):
            await asyncio.sleep(0)
        await consumer.stop()
        await consumer.complete(await receiving)
        assert (await consumer.stats()).active == 0


@pytest.mark.extended
async def test_4_four_attempts_give_three_retries(redis_url: str, stock: StockQueue, bull: BullMQQueue) -> None:
    failed, attempts = asyncio.Event(), 0

    async def fail(_job: Any, _token: str) -> None:
        nonlocal attempts
        attempts += 1
        raise ValueError("raised by a test")

    worker = stock_worker(redis_url, fail)
    worker.on("failed", lambda failing_job, _: failed.set() if failing_job.attemptsMade == 3 else None)
    await stock.add("a", {}, {"attempts": 3})
    async with asyncio.timeout(TIMEOUT):
        await failed.wait()
    await worker.close()
    assert attempts - 1 == 2, FIXED

    now = SystemClock().now()
    task = Task(new_id(now), TaskKind.DELIVER, new_id(now), Lane.HIGH, now)
    await bull.publish([task])
    for _ in range(MAX_ATTEMPTS - 1):
        await bull.nack(await bull.receive(Lane.HIGH, 1), retry_at=SystemClock().now(), why="raised by a test")
    assert await bull.receive(Lane.HIGH, 1) == [task], "the third retry"


async def test_5_a_job_survives_several_worker_crashes(redis_url: str, stock: StockQueue, consumers: Consumers) -> None:
    await stock.add("a", {})
    for _ in range(2):
        dead = StockWorker("stock", None, {"connection": redis_url, "lockDuration": 1, "stalledInterval": 1})
        stock_job = await dead.getNextJob("a dead worker")
        for _ in range(2):
            await asyncio.sleep(0.005)
            await dead.runStalledJobsCheck()
        await dead.close()
    assert await stock.client.hget(stock.toKey(stock_job.id), "defa"), FIXED

    await add(consumers(), job())
    for _ in range(4):
        dead_consumer = consumers(lock_duration=0.03)
        (received,) = await dead_consumer.receive(1)
        assert received.invalid_reason is None
        # the crashed consumer neither renews its locks nor settles its jobs
        await dead_consumer.stop()
        await dead_consumer.aclose()
    (redelivered,) = await consumers(lock_duration=0.03).receive(1)
    assert (redelivered.invalid_reason, redelivered.attempts_made) == (None, 0)


@pytest.mark.extended
async def test_6_a_producer_does_not_wait_for_an_unavailable_server(
    own_valkey: ValkeyServer, new_task: Callable[[], Task]
) -> None:
    stock = StockQueue("stock", {"connection": own_valkey.url})
    ours = BullMQQueue(RedisClient(own_valkey.url), "test", SystemClock())
    await stock.add("a", {})
    await ours.publish([new_task()])
    own_valkey.kill()
    adding = asyncio.create_task(stock.add("a", {}))
    started = time.monotonic()
    with pytest.raises(BackendError):
        await ours.publish([new_task()])
    assert time.monotonic() - started < 0.7
    done, _ = await asyncio.wait([adding], timeout=1.5)
    assert not done, FIXED
    adding.cancel()
    await asyncio.wait([adding])
    await stock.close()
    await ours.stop()
    await ours.aclose()


async def test_7_jobs_without_a_priority_do_not_overtake_urgent_jobs(
    redis_url: str, stock: StockQueue, bull: BullMQQueue, new_task: Callable[[], Task]
) -> None:
    await stock.add("urgent", {}, {"priority": 1})
    await stock.add("no priority", {})
    worker = StockWorker("stock", None, {"connection": redis_url})
    first = await worker.getNextJob("token")
    await worker.close()
    assert first.name == "no priority", FIXED

    urgent = new_task()
    await bull.publish([Task(new_id(SystemClock().now()), urgent.kind, "low", Lane.LOW, urgent.due_at)] * 50)
    await bull.publish([urgent])
    assert await bull.receive(Lane.HIGH, 1) == [urgent], "each lane is a queue of its own"
    assert await bull._redis_client.client.zcard("bull:{test-high}:prioritized") == 0


@pytest.mark.extended
async def test_8_an_error_does_not_end_listening(redis_url: str, stock: StockQueue, consumers: Consumers) -> None:
    events = StockEvents("stock", {"connection": redis_url, "autorun": False})
    received_event = asyncio.Event()
    events.on("added", lambda *_: received_event.set())
    await stock.client.set("bull:stock:events", "not a stream")
    await asyncio.wait([asyncio.ensure_future(events.run())], timeout=TIMEOUT)
    await stock.client.delete("bull:stock:events")
    await stock.add("a", {})
    await asyncio.sleep(0.1)
    assert not received_event.is_set(), FIXED
    await events.close()

    consumer = consumers()
    await stock.client.set(f"bull:{NAME}:marker", "not a sorted set")
    receiving = asyncio.create_task(complete_jobs(consumer, 1))
    await asyncio.wait([receiving], timeout=0.1)
    await stock.client.delete(f"bull:{NAME}:marker")
    await add(consumer, job())
    assert await receiving < 3


@pytest.mark.extended
async def test_9_an_error_does_not_end_the_renewal_of_locks(
    redis_url: str, stock: StockQueue, consumers: Consumers
) -> None:
    started, proceed = asyncio.Event(), asyncio.Event()

    async def wait_to_proceed(_job: Any, _token: str) -> None:
        if len(worker.jobs) == 2:
            started.set()
        await proceed.wait()

    def raise_error(*_: object) -> None:
        raise ValueError("raised by a test")

    worker = StockWorker("stock", wait_to_proceed, {"connection": redis_url, "lockDuration": 400, "concurrency": 2})
    worker.on("error", raise_error)
    await stock.addBulk([{"name": "a", "data": {}}, {"name": "a", "data": {}}])
    consumer = consumers(lock_duration=0.4)
    await add(consumer, job(), job())
    ours = await consumer.receive(2)
    async with asyncio.timeout(TIMEOUT):
        await started.wait()
    # the failed renewal of a lost lock is reported as an error
    stolen, kept = await stock.client.lrange("bull:stock:active", 0, -1)
    await stock.client.delete(f"bull:stock:{stolen}:lock", f"bull:{NAME}:{ours[0].id}:lock")
    await asyncio.sleep(1)
    assert not await stock.client.exists(f"bull:stock:{kept}:lock"), FIXED
    assert await stock.client.exists(f"bull:{NAME}:{ours[1].id}:lock"), "our lock is renewed beyond its 0.4 s"
    await consumer.complete(ours)
    proceed.set()
    await close_stock_worker(worker)


@pytest.mark.extended
async def test_10_old_jobs_are_deleted_although_no_other_job_finishes(
    redis_url: str, stock: StockQueue, consumers: Consumers
) -> None:
    processor = CountingProcessor(1)
    worker = stock_worker(redis_url, processor, removeOnComplete=KEEP_COMPLETED)
    await stock.add("a", {})
    assert await processor.has_reached_target(TIMEOUT)
    await worker.close()
    consumer = consumers()
    await add(consumer, job())
    await complete_jobs(consumer, 1)
    long_ago = (time.time() - KEEP_COMPLETED["age"] - 60) * 1000
    for queue in ("stock", NAME):
        for job_id in await stock.client.zrange(f"bull:{queue}:completed", 0, -1):
            await stock.client.zadd(f"bull:{queue}:completed", {job_id: long_ago})
    idle = stock_worker(redis_url, processor, removeOnComplete=KEEP_COMPLETED)
    await asyncio.sleep(0.1)
    assert await stock.getCompletedCount() == 1, FIXED
    await close_stock_worker(idle)
    await consumer.purge()
    assert (await consumer.stats()).completed == 0


async def test_11_a_task_with_a_new_generation_is_executed_again(
    redis_url: str, stock: StockQueue, bull: BullMQQueue, new_task: Callable[[], Task]
) -> None:
    processor = CountingProcessor(1)
    worker = stock_worker(redis_url, processor)
    await stock.add("a", {}, {"jobId": "x-0"})
    assert await processor.has_reached_target(TIMEOUT)
    await worker.close()
    await stock.add("a", {}, {"jobId": "x-0"})
    assert await stock.getWaitingCount() == 0, FIXED

    task = new_task()
    await bull.publish([task])
    await bull.ack(await bull.receive(Lane.HIGH, 1))
    repeat = Task(task.id, task.kind, task.ref, task.lane, task.due_at, generation=1)
    await bull.publish([repeat])
    assert await bull.receive(Lane.HIGH, 1) == [repeat]


@pytest.mark.extended
async def test_12_short_delays_are_not_rounded_up(redis_url: str, stock: StockQueue, consumers: Consumers) -> None:
    processor, consumer = CountingProcessor(1), consumers()
    worker = stock_worker(redis_url, processor)
    started = time.monotonic()
    await stock.add("a", {}, {"delay": 200})
    await add(consumer, job(due_in=0.2))
    ours = asyncio.create_task(complete_jobs(consumer, 1))
    assert await processor.has_reached_target(TIMEOUT)
    assert time.monotonic() - started > 0.7, FIXED
    assert 0.15 < await ours < 0.6
    await worker.close()


def test_13_the_packages_pins_match_the_installed_versions() -> None:
    pins = [Requirement(line) for line in requires("bullmq") or [] if "extra" not in line]
    assert any(str(pin.specifier).startswith("==") for pin in pins), FIXED
    assert [pin.name for pin in pins if not pin.specifier.contains(version(pin.name))] == []


async def test_14_a_hundred_notifications_cost_two_jobs(stock: StockQueue, bull: BullMQQueue) -> None:
    now = SystemClock().now()
    tasks = [Task(new_id(now), TaskKind.FAN_OUT, "x", Lane.HIGH, now) for _ in range(100)]
    await stock.addBulk([{"name": "a", "data": {"id": task.id}} for task in tasks])
    assert await stock.getWaitingCount() == 100, FIXED
    await bull.publish(tasks)
    assert (await bull.stats(Lane.HIGH)).waiting == 2
    assert len(await bull.receive(Lane.HIGH, 100)) == 100


async def test_15_a_stock_client_adds_to_our_queues_and_reads_their_counts(
    redis_url: str, consumers: Consumers
) -> None:
    stock_queue, consumer = StockQueue(NAME, {"connection": redis_url}), consumers()
    await stock_queue.add("publish", {"a": 1}, {"priority": 2, "attempts": 3, "backoff": {"type": "fixed", "delay": 5}})
    (received,) = await consumer.receive(1)
    assert (received.name, received.data, received.max_attempts, received.attempts_made) == ("publish", {"a": 1}, 3, 0)
    assert (await stock_queue.getJobCounts("active", "waiting"))["active"] == 1
    await consumer.complete([received], return_values=[{"id": "n"}])
    finished = await stock_queue.getJob(received.id)
    assert (finished.returnvalue, await stock_queue.getJobState(received.id)) == ({"id": "n"}, "completed")
    await stock_queue.add("publish", {})
    (broken,) = await consumer.receive(1)
    await consumer.fail(broken, "userId: missing")
    assert (await stock_queue.getJob(broken.id)).failedReason == "userId: missing"
    await stock_queue.close()


def test_16_the_experimental_backend_is_never_used(redis_url: str) -> None:
    assert isinstance(BullMQConsumer(RedisClient(redis_url), NAME)._client._queue.backend, RedisBackend)
