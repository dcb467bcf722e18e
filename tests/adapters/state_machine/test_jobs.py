"""Stateful test of the job queue: it behaves as a small reference model, whatever the order of events.

Events are adding, receiving and settling jobs, stalled consumers and server flushes. The queue is on Valkey. The rate
limit is checked by the server's own clock (`rate_check.py`).
"""

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from redis.asyncio import Redis
from tests.adapters.state_machine.job_consumer import (
    MAX_STALLS,
    QUEUE_NAME,
    RATE_LIMIT,
    RATE_WINDOW,
    ConnectionFault,
    JobConsumer,
)
from tests.adapters.state_machine.job_model import JobModel, Settlement
from tests.adapters.state_machine.rate_check import CommandMonitor

from tidings.errors import BackendError
from tidings.queues import bullmq_commands
from tidings.queues.bullmq_codec import NewJob
from tidings.queues.bullmq_commands import BullMQJob
from tidings.redis_client import connection_options
from tidings.testing.valkey import ValkeyServer

_T = TypeVar("_T")
CONSUMER_COUNT = 2
#: seconds: each step must end within this time, so that no call waits for ever
STEP_TIMEOUT = 30.0
#: seconds that a consumer waits for jobs at most; short enough to be cut off in the limiter's pause too
RECEIVE_TIMEOUT = 0.06


faults = st.sampled_from(
    (
        ConnectionFault.NONE,
        ConnectionFault.NONE,
        ConnectionFault.NONE,
        ConnectionFault.NOT_SENT,
        ConnectionFault.REPLY_LOST,
    )
)
indexes = st.integers(0, CONSUMER_COUNT - 1)
picks = st.integers(0, 50)


class JobMachine(RuleBasedStateMachine):
    """Applies every event to the model and to the consumers of one queue, and compares them.

    No rule has a precondition: which jobs arrive in time depends on the machine, and a run must be repeatable.
    """

    valkey: ClassVar[ValkeyServer]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.model = JobModel(MAX_STALLS)
        self.numbers = itertools.count()
        #: consumers that stalled: they receive no more jobs, but may still settle some
        self.stalled_consumers: list[JobConsumer] = []
        self.run(self._start())

    async def _start(self) -> None:
        self.valkey.flush()
        self.consumers = [JobConsumer(self.valkey.url) for _ in range(CONSUMER_COUNT)]
        self.admin = Redis.from_url(self.valkey.url, **connection_options(self.valkey.url))
        self.monitor = CommandMonitor(self.admin)
        await self.monitor.start()

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        async def run_with_timeout() -> _T:
            async with asyncio.timeout(STEP_TIMEOUT):
                return await call

        return self.runner.run(run_with_timeout())

    @initialize(count=st.integers(4, 9))
    def begin_with_some_jobs(self, count: int) -> None:
        self.add(0, count, 0.0, ConnectionFault.NONE)

    @rule(index=indexes, count=st.integers(1, 6), delay=st.sampled_from((0.0, 0.0, 0.02, 0.2)), fault=faults)
    def add(self, index: int, count: int, delay: float, fault: ConnectionFault) -> None:
        self.run(self._add(index, [f"job-{next(self.numbers)}" for _ in range(count)], delay, fault))

    @rule(index=indexes, which=picks)
    def add_again(self, index: int, which: int) -> None:
        """Add a job that the server already has, finished or not: the call has no effect."""
        if job_ids := sorted(self.model.jobs):
            self.run(self._add(index, [job_ids[which % len(job_ids)]], 0.0, ConnectionFault.NONE))

    async def _add(self, index: int, job_ids: Sequence[str], delay: float, fault: ConnectionFault) -> None:
        now = datetime.now(UTC)
        jobs = [NewJob(job_id, "a", {"is": job_id}, now + timedelta(seconds=delay)) for job_id in job_ids]
        client = self.consumers[index].faulty_client
        client.next_fault = fault if jobs else ConnectionFault.NONE
        try:
            await self.consumers[index].consumer.add(jobs, now)
        except BackendError:
            assert fault is not ConnectionFault.NONE
        client.next_fault = ConnectionFault.NONE
        if fault is not ConnectionFault.NOT_SENT:
            for job_id in job_ids:
                self.model.add(job_id)

    @rule(index=indexes, limit=st.integers(1, 6), steps=st.one_of(st.none(), st.integers(0, 30)), fault=faults)
    def receive(self, index: int, limit: int, steps: int | None, fault: ConnectionFault) -> None:
        """Receive jobs; the call is cancelled after some steps of the event loop, or a moment later."""
        self.run(self._receive(self.consumers[index], limit, steps, fault))

    async def _receive(self, consumer: JobConsumer, limit: int, steps: int | None, fault: ConnectionFault) -> None:
        consumer.faulty_client.next_fault = fault
        receiving = asyncio.ensure_future(consumer.consumer.receive(limit))
        for _ in range(steps or 0):
            await asyncio.sleep(0)
        if steps is None:
            await asyncio.wait([receiving], timeout=RECEIVE_TIMEOUT)
        receiving.cancel()
        await asyncio.wait([receiving])
        consumer.faulty_client.next_fault = ConnectionFault.NONE
        if not receiving.cancelled():
            self._record_handouts(consumer, receiving.result(), limit)

    def _record_handouts(self, consumer: JobConsumer, jobs: Sequence[BullMQJob], limit: int) -> None:
        assert len(jobs) <= limit
        for job in jobs:
            self.model.record_handout(job)
        consumer.jobs += jobs

    @rule(
        index=indexes,
        limit=st.integers(1, 6),
        settlements=st.lists(st.sampled_from(Settlement), min_size=1, max_size=4),
        fault=faults,
    )
    def work(self, index: int, limit: int, settlements: list[Settlement], fault: ConnectionFault) -> None:
        """Receive jobs, waiting for the limiter if necessary, and settle them in several ways."""
        self.run(self._work(self.consumers[index], limit, settlements, fault))

    async def _work(
        self, consumer: JobConsumer, limit: int, settlements: list[Settlement], fault: ConnectionFault
    ) -> None:
        await self._receive(consumer, limit, None, ConnectionFault.NONE)
        for settlement in settlements[: len(consumer.jobs)]:
            await self._settle(consumer, consumer.jobs.pop(0), settlement, fault)

    @rule(which=picks, pick=picks, settlement=st.sampled_from(Settlement), fault=faults)
    def settle(self, which: int, pick: int, settlement: Settlement, fault: ConnectionFault) -> None:
        """Settle a job. A settlement by a consumer that has lost its lock has no effect."""
        if holders := [consumer for consumer in [*self.consumers, *self.stalled_consumers] if consumer.jobs]:
            holder = holders[which % len(holders)]
            self.run(self._settle(holder, holder.jobs.pop(pick % len(holder.jobs)), settlement, fault))

    async def _settle(
        self, consumer: JobConsumer, job: BullMQJob, settlement: Settlement, fault: ConnectionFault
    ) -> None:
        consumer.faulty_client.next_fault = fault
        match settlement:
            case Settlement.COMPLETE:
                await consumer.consumer.complete([job])
            case Settlement.FAIL:
                await consumer.consumer.fail(job, "settled by a test")
            case Settlement.RETRY:
                await consumer.consumer.retry(job, after=0.01, why="settled by a test")
            case Settlement.REQUEUE:
                await consumer.consumer.requeue([job])
        consumer.faulty_client.next_fault = ConnectionFault.NONE
        self.model.record_settlement(job, settlement, is_received=fault is not ConnectionFault.NOT_SENT)

    @rule(index=indexes)
    def stall_consumer(self, index: int) -> None:
        """Stall a consumer in the middle of its work, and start another."""
        self.run(self._replace(index))

    @rule(index=indexes, limit=st.integers(1, 6), steps=st.integers(0, 30))
    def close_consumer(self, index: int, limit: int, steps: int) -> None:
        """Stop a consumer while it receives jobs: it owns only the jobs that it returned."""
        self.run(self._close_consumer(self.consumers[index], limit, steps))
        self.run(self._replace(index))

    async def _close_consumer(self, consumer: JobConsumer, limit: int, steps: int) -> None:
        receiving = asyncio.ensure_future(consumer.consumer.receive(limit))
        for _ in range(steps):
            await asyncio.sleep(0)
        await consumer.consumer.stop()
        self._record_handouts(consumer, await receiving, limit)
        if not consumer.consumer._has_unconfirmed_fetch:
            assert set(await self._list_owned_by(consumer)) <= self.model.held_tokens

    async def _replace(self, index: int) -> None:
        old, self.consumers[index] = self.consumers[index], JobConsumer(self.valkey.url)
        await old.consumer.aclose()
        self.stalled_consumers.append(old)

    async def _list_owned_by(self, consumer: JobConsumer) -> list[tuple[str, str]]:
        """Return id and token of the jobs that a consumer holds according to the server."""
        return await consumer.consumer._client.list_active_by_token(f"{consumer.consumer._consumer_id}:")

    @rule()
    def expire_locks(self) -> None:
        """Expire all locks that are not being renewed."""
        self.run(self._expire_locks())

    async def _expire_locks(self) -> None:
        key = f"bull:{QUEUE_NAME}:".__add__
        renewed = {held for consumer in self.consumers for held in consumer.consumer._held_jobs}
        for job_id in map(str, await self.admin.lrange(key("active"), 0, -1)):
            token = await self.admin.get(key(f"{job_id}:lock"))
            if (job_id, token) not in renewed:
                await self.admin.delete(key(f"{job_id}:lock"))
                self.model.record_stall(job_id)
        for _ in range(2):
            # the first pass marks active jobs, the second finds those whose lock has expired
            await self.admin.delete(key("stalled-check"))
            await self.consumers[0].consumer._client.move_stalled_to_wait(MAX_STALLS, 30.0)

    @rule(is_rare_event=st.sampled_from((False, False, False, True)))
    def flush(self, is_rare_event: bool) -> None:
        """Flush the server, as after a restart without persistence."""
        if not is_rare_event:
            return
        self.valkey.flush()
        self.valkey.send_command("SCRIPT", "FLUSH")
        self.model.record_flush()

    @invariant()
    def counts_match_the_model(self) -> None:
        self.model.check(self.run(self.consumers[0].consumer.stats()))

    def teardown(self) -> None:
        try:
            self.run(self._finish_all_jobs())
        finally:
            self.run(self._close_all())

    async def _finish_all_jobs(self) -> None:
        """Complete all jobs without further faults."""
        for consumer in itertools.cycle(self.consumers):
            while consumer.jobs:
                job = consumer.jobs.pop()
                await self._settle(
                    consumer, job, Settlement.FAIL if job.invalid_reason else Settlement.COMPLETE, ConnectionFault.NONE
                )
            await self._expire_locks()
            if not self.model.has_unfinished:
                break
            await self._receive(consumer, RATE_LIMIT, None, ConnectionFault.NONE)
        self.model.check(await self.consumers[0].consumer.stats())
        (await self.monitor.stop()).check(RATE_LIMIT, RATE_WINDOW, self.model.broken_ids)

    async def _close_all(self) -> None:
        for consumer in [*self.consumers, *self.stalled_consumers]:
            await consumer.close()
        await self.admin.aclose()


@pytest.fixture(autouse=True)
def _only_injected_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the timeouts, so that only injected faults look like an unavailable server."""
    monkeypatch.setattr(bullmq_commands, "FAST_TIMEOUT", STEP_TIMEOUT)
    monkeypatch.setattr(bullmq_commands, "SLOW_TIMEOUT", STEP_TIMEOUT)


@pytest.mark.parametrize(
    "runs", [1, pytest.param(4, marks=pytest.mark.extended), pytest.param(40, marks=pytest.mark.long)]
)
def test_jobs_finish_once_and_within_the_rate_limit(valkey: ValkeyServer, runner: asyncio.Runner, runs: int) -> None:
    options = settings(max_examples=5, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    # five examples per run: in longer runs most examples are slight variations of each other
    for _ in range(runs):
        run_machine(type("Jobs", (JobMachine,), {"valkey": valkey, "runner": runner}), settings=options)
