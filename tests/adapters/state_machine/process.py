"""A simulated process: the real pipeline, store and queue, driven step by step, able to crash at any moment."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from enum import Enum, auto
from typing import NamedTuple

from sqlalchemy import select
from tests.adapters.state_machine.fake_channel import FakeChannel, FeedChannel, ProviderLog
from tests.adapters.state_machine.faulty_store import FaultyStore

from tidings.channels.inapp import InAppChannel
from tidings.errors import BackendError
from tidings.flow.accept.external_jobs import ExternalJobAcceptor
from tidings.flow.catalog import Catalog
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.preflight import DeliveryJob
from tidings.flow.deliver.render_cache import RenderCache
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.deliver.step_check import StepCheck
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.flow.pipeline import Pipeline, PipelineConfig
from tidings.flow.record.outcome_buffer import OutcomeBuffer
from tidings.flow.recover.reconciler import Reconciler
from tidings.inbox_service import InboxService
from tidings.model.delivery import AttemptResult, HoldRecord, SkipRecord
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.queue import Queue
from tidings.realtime.memory_broadcaster import MemoryBroadcaster
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import deliveries
from tidings.stores.sql.json_params import id_array
from tidings.testing.clock import FrozenClock

#: three users per page, so that audiences span several pages; three concurrent sends, so that some deliveries wait
CONFIG = PipelineConfig(page_size=3, batch_size=4, batches_per_claim=2, lease_duration=timedelta(seconds=60))
SLOTS = 3
#: the delay of the worker's own loop
FAILURE_RETRY_DELAY = timedelta(seconds=5)

_d = deliveries.c


class TimerTask(Enum):
    """The periodic tasks of a worker."""

    RELAY = auto()
    BATCH_DUE = auto()
    REAP_LEASES = auto()
    REQUEUE_STUCK = auto()
    CHECK_QUEUE = auto()
    REFRESH_CANCELLATIONS = auto()
    ACK_OUTBOX = auto()
    CLOSE_DIGESTS = auto()
    START_STEPS = auto()


class DeliveryRow(NamedTuple):
    """The recorded state of a delivery."""

    id: str
    state: str
    lease_token: str | None
    attempts: int
    why: str | None


class SimulatedProcess:
    """An API process, or a worker if `has_local_consumer`."""

    def __init__(
        self,
        store: FaultyStore,
        queue: Queue,
        catalog: Catalog,
        clock: FrozenClock,
        provider_log: ProviderLog,
        *,
        user_limit: int,
        has_local_consumer: bool,
        is_exclusive: bool,
    ) -> None:
        renderer = MinijinjaRenderer(catalog.filters, "https://shop.example")
        self.store, self.queue, self.clock, self.provider_log = store, queue, clock, provider_log
        self.pipeline = Pipeline(
            store,
            queue,
            catalog,
            renderer,
            clock,
            config=replace(CONFIG, rate_limits=RateLimitPolicy(user_limit), is_exclusive=is_exclusive),
        )
        self.acceptor = ExternalJobAcceptor(store, clock, self.pipeline)
        self.reconciler = Reconciler(store, queue, clock, is_exclusive=is_exclusive)
        self.channel = FakeChannel(provider_log, clock)
        self.inbox = InboxService(store, clock, MemoryBroadcaster())
        self.outcome_buffer = OutcomeBuffer(self._write_outcomes, max_rows=10_000, max_delay=0)
        #: outcomes that a crash of this process would lose
        self.unwritten: list[AttemptResult] = []
        #: (delivery, lease token) of the recorded outcomes
        self.applied_outcomes: set[tuple[str, str]] = set()
        self._flush_requested = asyncio.Event()
        self._step_check = StepCheck(store, clock)
        #: deliveries of later steps that are being checked for the last time before they are sent
        self.in_last_check: Counter[str] = Counter()
        feed = FeedChannel(self.channel, InAppChannel(self.inbox.deliver, clock))
        self.sender = DeliverySender(
            {name: feed if name == "inapp" else self.channel for name in catalog.channels},
            RenderCache(renderer, catalog),
            SendLimiter(SLOTS),
            clock,
            self._on_outcome,
            self._flush_requested.set,
            update_step=self._update_step,
        )
        self.pipeline.cancellations.on_stopped(self.sender.mark_stopped)
        self.pipeline.has_local_consumer = has_local_consumer

    @property
    def is_dead(self) -> bool:
        return self.channel.crashed.is_set()

    async def work(self, limit: int) -> None:
        """Receive tasks of the first lane that has any, and process them."""
        for lane in LANES:
            if (await self.queue.stats(lane)).waiting:
                async with asyncio.timeout(10):
                    tasks = await self.queue.receive(lane, limit)
                await self._run_tasks(tasks, lane)
                return

    async def has_waiting_tasks(self) -> bool:
        """Return whether the queue has tasks that are due."""
        return any([(await self.queue.stats(lane)).waiting for lane in LANES])

    async def flush_outcomes(self) -> None:
        """Flush the outcome buffer; after a fault its outcomes stay buffered."""
        try:
            await self.outcome_buffer.flush()
        except BackendError:
            return

    async def ignore_backend_error(self, call: Callable[[], Awaitable[object]]) -> None:
        """Run a call as a timer does: a failure is left to the next run."""
        try:
            await call()
        except BackendError:
            return

    async def run_timer(self, timer_task: TimerTask) -> None:
        """Run one periodic task. Raises BackendError."""
        match timer_task:
            case TimerTask.RELAY:
                await self.pipeline.outbox_relay.relay()
            case TimerTask.BATCH_DUE:
                await self.pipeline.batch_due()
            case TimerTask.REAP_LEASES:
                await self.reap_expired_leases()
            case TimerTask.REQUEUE_STUCK:
                await self.reconciler.requeue_stuck()
            case TimerTask.CHECK_QUEUE:
                await self.reconciler.detect_queue_reset()
            case TimerTask.REFRESH_CANCELLATIONS:
                await self.pipeline.cancellations.refresh(self.sender.held_notification_ids)
            case TimerTask.ACK_OUTBOX:
                await self.pipeline.outbox_relay.ack()
            case TimerTask.CLOSE_DIGESTS:
                await self.pipeline.close_due_digests()
            case TimerTask.START_STEPS:
                while await self.pipeline.step_runner.start_due():
                    pass

    async def reap_expired_leases(self) -> None:
        """Flush own outcomes, then release expired leases, as the worker's timer does."""
        await self.outcome_buffer.flush()
        await self.reconciler.reap_expired_leases()

    async def stop(self) -> None:
        """Shut down gracefully, as on SIGTERM, with no send in flight."""
        self.sender.stop()
        await self.outcome_buffer.flush()
        await self.pipeline.delivery_runner.release_claims()
        await self.pipeline.outbox_relay.ack()

    def crash(self) -> None:
        """Lose all state; outcomes that were not recorded are lost."""
        self.channel.crashed.set()
        self.provider_log.unknown_outcomes.update(result.delivery_id for result in self.unwritten)
        self.provider_log.unknown_outcomes.update(self.channel.unanswered)
        self.unwritten.clear()
        self.channel.unanswered.clear()

    async def _run_tasks(self, tasks: Sequence[Task], lane: Lane) -> None:
        fan_outs = [task for task in tasks if task.kind is TaskKind.FAN_OUT]
        batches = [task for task in tasks if task.kind is TaskKind.DELIVER]
        isolated = [task for task in tasks if task.kind is TaskKind.DELIVER_ALONE]
        for group, handler in [
            (fan_outs, self._fan_out),
            (batches, self._deliver),
            *(([task], self._deliver_isolated) for task in isolated),
        ]:
            if group and not self.is_dead:
                await self._with_ack(group, lane, handler)

    async def _with_ack(
        self, tasks: list[Task], lane: Lane, handler: Callable[[Sequence[str], Lane], Awaitable[None]]
    ) -> None:
        try:
            await self._run_until_crash(handler([task.ref for task in tasks], lane))
        except BackendError as error:
            await self.queue.nack(tasks, retry_at=self.clock.now() + FAILURE_RETRY_DELAY, why=error.message)
        else:
            if not self.is_dead:
                await self.queue.ack(tasks)

    async def _run_until_crash(self, work: Awaitable[None]) -> None:
        """Wait until the work ends or this process crashes."""
        running = asyncio.ensure_future(work)
        crashing = asyncio.ensure_future(self.channel.crashed.wait())
        await asyncio.wait([running, crashing], return_when=asyncio.FIRST_COMPLETED)
        crashing.cancel()
        if running.done():
            running.result()
            return
        running.cancel()
        await asyncio.wait([running])
        self.crash()

    async def _fan_out(self, refs: Sequence[str], lane: Lane) -> None:
        ready_tasks: list[Task] = []
        next_pages = await self.pipeline.fan_out.plan_next_pages(refs, ready_tasks.extend)
        await self.queue.publish(next_pages)
        if lane is Lane.URGENT and ready_tasks:
            await self.pipeline.delivery_runner.deliver([task.ref for task in ready_tasks], self.sender, urgent=True)

    async def _deliver(self, refs: Sequence[str], lane: Lane) -> None:
        await self.pipeline.delivery_runner.deliver(refs, self.sender, urgent=lane is Lane.URGENT)

    async def _deliver_isolated(self, refs: Sequence[str], _lane: Lane) -> None:
        """Deliver one isolated delivery; flush outcomes on request, because the runner waits for the record."""
        self._flush_requested.clear()
        running = asyncio.ensure_future(self.pipeline.delivery_runner.deliver_separately(refs[0], self.sender))
        try:
            while not running.done():
                flush_requested = asyncio.ensure_future(self._flush_requested.wait())
                await asyncio.wait([running, flush_requested], return_when=asyncio.FIRST_COMPLETED)
                flush_requested.cancel()
                self._flush_requested.clear()
                await self.flush_outcomes()
                if self.unwritten:
                    self._flush_requested.set()
            running.result()
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _update_step(self, job: DeliveryJob) -> DeliveryJob:
        self.in_last_check[job.delivery.id] += 1
        try:
            return await self._step_check.update(job)
        finally:
            self.in_last_check[job.delivery.id] -= 1

    async def _on_outcome(self, result: AttemptResult) -> None:
        self.unwritten.append(result)
        await self.outcome_buffer.add(result)

    async def _write_outcomes(self, results: Sequence[AttemptResult]) -> None:
        """Record outcomes, and assert that those of a lost lease change nothing."""
        before = await self._read_delivery_rows(results)
        valid = [result for result in results if before[result.delivery_id][1:3] == ("sending", result.lease_token)]
        replies_lost = self.store.lost_reply_count
        committed = True
        try:
            await self.pipeline.record(results)
        except BackendError:
            committed = self.store.lost_reply_count > replies_lost
            raise
        finally:
            after = await self._read_delivery_rows(results)
            expected = {result.delivery_id for result in valid} if committed else set()
            changed = {delivery_id for delivery_id, row in after.items() if row != before[delivery_id]}
            assert changed == expected, (
                f"an outcome without a lease was recorded, or one with a lease was not: {changed ^ expected}"
            )
            if committed:
                self.applied_outcomes.update((result.delivery_id, result.lease_token) for result in valid)
        for result in results:
            self.unwritten.remove(result)
            if (result.delivery_id, result.lease_token) not in self.applied_outcomes and not isinstance(
                result.outcome, SkipRecord | HoldRecord
            ):
                self.provider_log.unknown_outcomes[result.delivery_id] += 1

    async def _read_delivery_rows(self, results: Sequence[AttemptResult]) -> dict[str, DeliveryRow]:
        ids = [result.delivery_id for result in results]
        query = select(_d.id, _d.state, _d.lease_token, _d.attempts, _d.why).where(_d.id.in_(id_array(ids)))
        async with self.store.read_snapshot() as tx:
            return {row.id: DeliveryRow(*row) for row in await connection_of(tx).execute(query)}
