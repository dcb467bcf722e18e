"""The pitfalls of BullMQ's Python package: each scenario runs on the stock class, which shows it, and on ours.

A test that fails with "the stock class has been mended" says that a work-around can go.
"""

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
from tidings.queues.bullmq import JobSource
from tidings.queues.bullmq_commands import KEEP_COMPLETED
from tidings.queues.bullmq_jobs import NewJob
from tidings.queues.lanes import MOST_TRIES, BullQueue
from tidings.redis_link import RedisLink
from tidings.testing.valkey import ValkeyServer

# the stock classes leave sockets open when they are closed
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

MENDED = "the stock class has been mended, the work-around can go"
NAME = "{test-pitfall}"
#: seconds that nothing takes unless it hangs
PATIENCE = 15.0

Sources = Callable[..., JobSource]
Processor = Callable[[Any, str], Awaitable[object]]


@pytest.fixture(autouse=True)
def _their_leaks_stay_here() -> Iterator[None]:
    """Have what the stock classes left open complained about here, and not in the next test of another file."""
    yield
    gc.collect()


def job(due_in: float = 0) -> NewJob:
    now = SystemClock().now()
    return NewJob(new_id(now), "a", {"v": 1}, now + timedelta(seconds=due_in))


async def add(source: JobSource, *jobs: NewJob) -> None:
    await source.add(jobs, SystemClock().now())


async def taken_until(source: JobSource, count: int) -> float:
    """Take and complete so many jobs; return the seconds it took."""
    began, left = time.monotonic(), count
    async with asyncio.timeout(PATIENCE):
        while left > 0:
            jobs = await source.take(50)
            await source.complete(jobs)
            left -= len(jobs)
    return time.monotonic() - began


def stock_worker(redis_url: str, processor: Processor, **options: Any) -> StockWorker:
    worker = StockWorker("stock", processor, {"connection": redis_url, **options})
    worker.on("error", lambda *_: None)
    return worker


async def ended(worker: StockWorker) -> None:
    """End a stock worker that may be stuck."""
    await worker.close(force=True)
    await worker.backend.close()


class Processed:
    """A processor that only counts, and says when there were enough."""

    def __init__(self, enough: int) -> None:
        self.jobs: list[Any] = []
        self._enough = enough
        self._reached = asyncio.Event()

    async def __call__(self, job: Any, token: str) -> None:
        self.jobs.append(job)
        if len(self.jobs) >= self._enough:
            self._reached.set()

    async def within(self, seconds: float) -> bool:
        """Return whether there were enough in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._reached.wait()
        except TimeoutError:
            return False
        return True


@pytest.mark.slow
async def test_1_a_worker_that_blocks_longer_than_the_clients_timeout_misses_nothing(
    redis_url: str, stock: StockQueue, sources: Sources
) -> None:
    source, processed = sources(), Processed(1)
    worker = stock_worker(redis_url, processed)
    await stock.add("a", {}, {"delay": 5400})
    await add(source, job(due_in=5.4))
    ours = asyncio.create_task(taken_until(source, 1))
    assert not await processed.within(6.4), MENDED
    assert 5.2 < await ours < 6.2
    await ended(worker)


async def test_2_the_limiters_pause_is_honoured(redis_url: str, stock: StockQueue, sources: Sources) -> None:
    processed = Processed(15)
    await stock.addBulk([{"name": "a", "data": {}} for _ in range(15)])
    worker = stock_worker(redis_url, processed, limiter={"max": 5, "duration": 1000})
    source = sources(limit_per_second=5)
    await add(source, *(job() for _ in range(15)))
    ours = asyncio.create_task(taken_until(source, 15))
    assert not await processed.within(3.5), MENDED
    assert 1.9 < await ours < 3.5
    await ended(worker)


async def test_3_closing_leaves_nothing_active_that_was_not_taken(
    redis_url: str, stock: StockQueue, sources: Sources
) -> None:
    async def briefly(_job: Any, _token: str) -> None:
        await asyncio.sleep(0.01)

    left_active = 0
    for tenths in range(1, 11):
        await stock.addBulk([{"name": "a", "data": {}} for _ in range(25)])
        worker = stock_worker(redis_url, briefly, concurrency=10, autorun=False)
        running = asyncio.create_task(worker.run())
        # closed at another point of its work each time
        await asyncio.wait([running], timeout=0.003 * tenths)
        await worker.close()
        await asyncio.wait([running], timeout=0.2)
        running.cancel()
        await asyncio.wait([running])
        # what it still did after its close opened its connections again
        await worker.backend.close()
        left_active += await stock.getJobCountByTypes("active")
        if left_active:
            break
    assert left_active > 0, MENDED

    for steps in range(40):
        source = sources()
        await add(source, *(job() for _ in range(5)))
        taking = asyncio.create_task(source.take(5))
        for _ in range(steps):
            await asyncio.sleep(0)
        await source.close()
        await source.complete(await taking)
        assert (await source.stats()).active == 0


async def test_4_three_repeats_are_made_of_four_tries(redis_url: str, stock: StockQueue, bull: BullQueue) -> None:
    failed, tries = asyncio.Event(), 0

    async def fails(_job: Any, _token: str) -> None:
        nonlocal tries
        tries += 1
        raise ValueError("of a test")

    worker = stock_worker(redis_url, fails)
    worker.on("failed", lambda failing, _: failed.set() if failing.attemptsMade == 3 else None)
    await stock.add("a", {}, {"attempts": 3})
    async with asyncio.timeout(PATIENCE):
        await failed.wait()
    await worker.close()
    assert tries - 1 == 2, MENDED

    now = SystemClock().now()
    task = Task(new_id(now), TaskKind.DELIVER, new_id(now), Lane.HIGH, now)
    await bull.publish([task])
    for _ in range(MOST_TRIES - 1):
        await bull.again(await bull.take(Lane.HIGH, 1), at=SystemClock().now(), why="of a test")
    assert await bull.take(Lane.HIGH, 1) == [task], "the third repeat"


async def test_5_a_job_survives_more_than_one_dead_worker(redis_url: str, stock: StockQueue, sources: Sources) -> None:
    await stock.add("a", {})
    for _ in range(2):
        dead = StockWorker("stock", None, {"connection": redis_url, "lockDuration": 1, "stalledInterval": 1})
        taken = await dead.getNextJob("a dead worker")
        for _ in range(2):
            await asyncio.sleep(0.005)
            await dead.runStalledJobsCheck()
        await dead.close()
    assert await stock.client.hget(stock.toKey(taken.id), "defa"), MENDED

    await add(sources(), job())
    for _ in range(4):
        dead_source = sources(lock=0.03)
        (taken_by_us,) = await dead_source.take(1)
        assert taken_by_us.broken is None
        # neither renews nor settles any more
        await dead_source.close()
        await dead_source.release()
    (alive,) = await sources(lock=0.03).take(1)
    assert (alive.broken, alive.attempts_made) == (None, 0)


async def test_6_a_producer_does_not_wait_for_a_server_that_is_down(
    own_valkey: ValkeyServer, new_task: Callable[[], Task]
) -> None:
    stock = StockQueue("stock", {"connection": own_valkey.url})
    ours = BullQueue(RedisLink(own_valkey.url), "test", SystemClock())
    await stock.add("a", {})
    await ours.publish([new_task()])
    own_valkey.kill()
    adding = asyncio.create_task(stock.add("a", {}))
    began = time.monotonic()
    with pytest.raises(BackendError):
        await ours.publish([new_task()])
    assert time.monotonic() - began < 0.7
    done, _ = await asyncio.wait([adding], timeout=1.5)
    assert not done, MENDED
    adding.cancel()
    await asyncio.wait([adding])
    await stock.close()
    await ours.close()
    await ours.release()


async def test_7_work_without_a_priority_does_not_overtake_urgent_work(
    redis_url: str, stock: StockQueue, bull: BullQueue, new_task: Callable[[], Task]
) -> None:
    await stock.add("urgent", {}, {"priority": 1})
    await stock.add("no priority", {})
    worker = StockWorker("stock", None, {"connection": redis_url})
    first = await worker.getNextJob("token")
    await worker.close()
    assert first.name == "no priority", MENDED

    urgent = new_task()
    await bull.publish([Task(new_id(SystemClock().now()), urgent.kind, "low", Lane.LOW, urgent.due_at)] * 50)
    await bull.publish([urgent])
    assert await bull.take(Lane.HIGH, 1) == [urgent], "a lane of its own"
    assert await bull._link.client.zcard("bull:{test-high}:prioritized") == 0


async def test_8_an_error_does_not_end_listening(redis_url: str, stock: StockQueue, sources: Sources) -> None:
    events = StockEvents("stock", {"connection": redis_url, "autorun": False})
    heard = asyncio.Event()
    events.on("added", lambda *_: heard.set())
    await stock.client.set("bull:stock:events", "not a stream")
    await asyncio.wait([asyncio.ensure_future(events.run())], timeout=PATIENCE)
    await stock.client.delete("bull:stock:events")
    await stock.add("a", {})
    await asyncio.sleep(0.1)
    assert not heard.is_set(), MENDED
    await events.close()

    source = sources()
    await stock.client.set(f"bull:{NAME}:marker", "not a sorted set")
    taking = asyncio.create_task(taken_until(source, 1))
    await asyncio.wait([taking], timeout=0.1)
    await stock.client.delete(f"bull:{NAME}:marker")
    await add(source, job())
    assert await taking < 3


async def test_9_an_error_does_not_end_the_renewal_of_locks(
    redis_url: str, stock: StockQueue, sources: Sources
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def waits(_job: Any, _token: str) -> None:
        if len(worker.jobs) == 2:
            began.set()
        await go_on.wait()

    def raises(*_: object) -> None:
        raise ValueError("of a test")

    worker = StockWorker("stock", waits, {"connection": redis_url, "lockDuration": 400, "concurrency": 2})
    worker.on("error", raises)
    await stock.addBulk([{"name": "a", "data": {}}, {"name": "a", "data": {}}])
    source = sources(lock=0.4)
    await add(source, job(), job())
    ours = await source.take(2)
    async with asyncio.timeout(PATIENCE):
        await began.wait()
    # a lock that cannot be renewed is reported as an error
    stolen, kept = await stock.client.lrange("bull:stock:active", 0, -1)
    await stock.client.delete(f"bull:stock:{stolen}:lock", f"bull:{NAME}:{ours[0].id}:lock")
    await asyncio.sleep(1)
    assert not await stock.client.exists(f"bull:stock:{kept}:lock"), MENDED
    assert await stock.client.exists(f"bull:{NAME}:{ours[1].id}:lock"), "ours is renewed past its 0.4 s"
    await source.complete(ours)
    go_on.set()
    await ended(worker)


async def test_10_old_jobs_are_erased_although_no_other_finishes(
    redis_url: str, stock: StockQueue, sources: Sources
) -> None:
    processed = Processed(1)
    worker = stock_worker(redis_url, processed, removeOnComplete=KEEP_COMPLETED)
    await stock.add("a", {})
    assert await processed.within(PATIENCE)
    await worker.close()
    source = sources()
    await add(source, job())
    await taken_until(source, 1)
    long_ago = (time.time() - KEEP_COMPLETED["age"] - 60) * 1000
    for queue in ("stock", NAME):
        for job_id in await stock.client.zrange(f"bull:{queue}:completed", 0, -1):
            await stock.client.zadd(f"bull:{queue}:completed", {job_id: long_ago})
    idle = stock_worker(redis_url, processed, removeOnComplete=KEEP_COMPLETED)
    await asyncio.sleep(0.1)
    assert await stock.getCompletedCount() == 1, MENDED
    await ended(idle)
    await source.tidy()
    assert (await source.stats()).completed == 0


async def test_11_work_told_again_is_done_again(
    redis_url: str, stock: StockQueue, bull: BullQueue, new_task: Callable[[], Task]
) -> None:
    processed = Processed(1)
    worker = stock_worker(redis_url, processed)
    await stock.add("a", {}, {"jobId": "x-0"})
    assert await processed.within(PATIENCE)
    await worker.close()
    await stock.add("a", {}, {"jobId": "x-0"})
    assert await stock.getWaitingCount() == 0, MENDED

    task = new_task()
    await bull.publish([task])
    await bull.done(await bull.take(Lane.HIGH, 1))
    repeat = Task(task.id, task.kind, task.ref, task.lane, task.due_at, generation=1)
    await bull.publish([repeat])
    assert await bull.take(Lane.HIGH, 1) == [repeat]


async def test_12_short_delays_are_not_rounded_up(redis_url: str, stock: StockQueue, sources: Sources) -> None:
    processed, source = Processed(1), sources()
    worker = stock_worker(redis_url, processed)
    began = time.monotonic()
    await stock.add("a", {}, {"delay": 200})
    await add(source, job(due_in=0.2))
    ours = asyncio.create_task(taken_until(source, 1))
    assert await processed.within(PATIENCE)
    assert time.monotonic() - began > 0.7, MENDED
    assert 0.15 < await ours < 0.6
    await worker.close()


def test_13_what_the_package_pins_fits_what_is_installed() -> None:
    pins = [Requirement(line) for line in requires("bullmq") or [] if "extra" not in line]
    assert any(str(pin.specifier).startswith("==") for pin in pins), MENDED
    assert [pin.name for pin in pins if not pin.specifier.contains(version(pin.name))] == []


async def test_14_a_hundred_notifications_cost_two_jobs(stock: StockQueue, bull: BullQueue) -> None:
    now = SystemClock().now()
    tasks = [Task(new_id(now), TaskKind.FAN_OUT, "x", Lane.HIGH, now) for _ in range(100)]
    await stock.addBulk([{"name": "a", "data": {"id": task.id}} for task in tasks])
    assert await stock.getWaitingCount() == 100, MENDED
    await bull.publish(tasks)
    assert (await bull.stats(Lane.HIGH)).waiting == 2
    assert len(await bull.take(Lane.HIGH, 100)) == 100


async def test_15_a_stock_client_adds_to_our_queues_and_reads_their_counts(redis_url: str, sources: Sources) -> None:
    theirs, source = StockQueue(NAME, {"connection": redis_url}), sources()
    await theirs.add("publish", {"a": 1}, {"priority": 2, "attempts": 3, "backoff": {"type": "fixed", "delay": 5}})
    (taken,) = await source.take(1)
    assert (taken.name, taken.data, taken.attempts, taken.attempts_made) == ("publish", {"a": 1}, 3, 0)
    assert (await theirs.getJobCounts("active", "waiting"))["active"] == 1
    await source.complete([taken], answers=[{"id": "n"}])
    finished = await theirs.getJob(taken.id)
    assert (finished.returnvalue, await theirs.getJobState(taken.id)) == ({"id": "n"}, "completed")
    await theirs.add("publish", {})
    (broken,) = await source.take(1)
    await source.fail(broken, "userId: missing")
    assert (await theirs.getJob(broken.id)).failedReason == "userId: missing"
    await theirs.close()


def test_16_the_experimental_backend_is_never_used(redis_url: str) -> None:
    assert isinstance(JobSource(RedisLink(redis_url), NAME)._commands._queue.backend, RedisBackend)
