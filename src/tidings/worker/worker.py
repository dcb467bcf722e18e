"""The worker: runs all loops and drains them: stop consuming, finish sends, write outcomes, release the rest."""

import asyncio
from collections.abc import Mapping

import structlog

from tidings.concurrency import cancel_all, discard_result, run_with_deadline
from tidings.container import AppContainer
from tidings.errors import BackendError
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.record.outcome_buffer import OutcomeBuffer
from tidings.model.priority import LANES
from tidings.worker.background_tasks import BackgroundTasks
from tidings.worker.interval_tasks import IntervalTask, run_intervals
from tidings.worker.job_intake import JobIntake
from tidings.worker.lane_consumer import LaneConsumer

log = structlog.get_logger(__name__)

#: seconds to write the last outcomes, in addition to the deadline; a lost outcome means a second send
FINAL_WRITE_TIMEOUT = 3.0
#: seconds between purges of old intake jobs; BullMQ removes them only when another job finishes
PURGE_INTAKE_EVERY = 3600.0


class Worker:
    """The consumers and background tasks of one process."""

    def __init__(
        self,
        container: AppContainer,
        sender: DeliverySender,
        outcome_buffer: OutcomeBuffer,
        intake: JobIntake | None = None,
    ) -> None:
        """intake: accepts jobs of other services; None = there is no shared queue."""
        self._intake = intake
        self._pipeline = container.pipeline
        self._reconciler = container.reconciler
        self._sender = sender
        self._outcome_buffer = outcome_buffer
        self._clock = container.clock
        self._database_health = container.database_health
        self._background_tasks = BackgroundTasks(container, sender, outcome_buffer)
        self._consumers = [LaneConsumer(lane, container.pipeline, sender, container.database_health) for lane in LANES]
        self._is_stopped = False
        self._consumer_tasks: list[asyncio.Task[None]] = []
        self._support_tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Recover the work of the previous run, then start the loops, also while a back end is unavailable."""
        try:
            recovered = await self._reconciler.recover_on_start()
        except BackendError as error:
            self._database_health.record_own_failure(error)
        else:
            if recovered and (recovered.notifications or recovered.batches or recovered.claims):
                log.info(
                    "recovered",
                    notifications=recovered.notifications,
                    batches=recovered.batches,
                    claims=recovered.claims,
                )
        self._pipeline.cancellations.on_stopped(self._sender.mark_stopped)
        self._pipeline.has_local_consumer = True
        self._pipeline.last_tick_at = self._clock.now()
        self._consumer_tasks = [asyncio.create_task(consumer.run()) for consumer in self._consumers]
        self._support_tasks = [
            asyncio.create_task(self._background_tasks.run()),
            asyncio.create_task(self._outcome_buffer.run()),
        ]
        if self._intake is not None:
            self._consumer_tasks.append(asyncio.create_task(self._intake.run()))
            purging = [IntervalTask(PURGE_INTAKE_EVERY, self._intake.purge)]
            self._support_tasks.append(
                asyncio.create_task(run_intervals(purging, self._database_health, poll_interval=60.0))
            )

    async def wait(self) -> None:
        """Return when a loop ends, which is due to `stop` or to a bug. Raises what the loop raised."""
        done, _ = await asyncio.wait([*self._consumer_tasks, *self._support_tasks], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    def detail(self) -> Mapping[str, object]:
        """Return this worker's figures, for its heartbeat."""
        last_tick_at, down_seconds = self._pipeline.last_tick_at, self._pipeline.queue.down_seconds
        tick_age = None if last_tick_at is None else round((self._clock.now() - last_tick_at).total_seconds(), 1)
        return {
            "inFlight": self._sender.in_flight,
            "unwritten": self._outcome_buffer.pending_count,
            "lanes": [lane.value for lane in LANES],
            "roundAge": tick_age,
            "draining": self._background_tasks.is_draining,
            "queueAwaySeconds": None if down_seconds is None else round(down_seconds, 1),
        }

    async def quiesce(self) -> None:
        """Stop consuming and starting sends. Sends in flight continue."""
        self._background_tasks.is_draining = True
        # newly accepted work stays in the outbox, for another process to relay
        self._pipeline.has_local_consumer = False
        self._sender.stop()
        # concurrently: each call may have to wait for the timeout of a server that hangs
        await asyncio.gather(self._pipeline.queue.stop(), *([self._intake.stop()] if self._intake else []))

    async def stop(self, deadline: float, force: asyncio.Event | None = None) -> None:
        """Drain within `deadline` seconds and release unsent deliveries for another worker.

        force: when set, sends in flight are abandoned at once. Repeated calls have no effect.
        """
        if self._is_stopped:
            return
        self._is_stopped = True
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        consumers, support = self._consumer_tasks, self._support_tasks
        if consumers:
            log.info("draining", in_flight=self._sender.in_flight, within_s=round(deadline, 1))
        await self._quiesce_within(deadline, force)
        await _wait_until_ended(consumers, max(0.0, started_at + deadline - loop.time()), force)
        if late := [task for task in consumers if not task.done()]:
            log.warning("sends_abandoned", lanes=len(late), deadline_s=round(deadline, 1))
        await cancel_all(consumers)
        released = await self._flush_within_timeout() if support else 0
        await cancel_all(support)
        if consumers:
            log.info("drained", given_back=released, after_s=round(loop.time() - started_at, 1))

    async def _quiesce_within(self, deadline: float, force: asyncio.Event | None) -> None:
        quiescing = asyncio.create_task(self.quiesce())
        quiescing.add_done_callback(discard_result)
        try:
            await _wait_until_ended([quiescing], deadline, force)
            if not quiescing.done() or quiescing.cancelled():
                log.warning("queues_not_closed", deadline_s=round(deadline, 1))
            elif error := quiescing.exception():
                # not raised: the outcomes must still be written
                log.error("queues_not_closed", exc_info=error)
        finally:
            quiescing.cancel()

    async def _flush_within_timeout(self) -> int:
        """Write the last outcomes and release the remaining deliveries; return the number of the latter."""
        try:
            return await run_with_deadline(FINAL_WRITE_TIMEOUT, self._flush_and_release())
        except (BackendError, TimeoutError) as error:
            problem = error.message if isinstance(error, BackendError) else "the database does not answer"
            log.error("outcomes_lost_on_shutdown", outcomes=self._outcome_buffer.pending_count, error=problem)
            return 0

    async def _flush_and_release(self) -> int:
        # outcomes first: another worker would send a released delivery again
        await self._outcome_buffer.flush()
        released = await self._pipeline.delivery_runner.release_claims()
        await self._pipeline.outbox_relay.ack()
        return released


async def _wait_until_ended(tasks: list[asyncio.Task[None]], deadline: float, force: asyncio.Event | None) -> None:
    """Wait until all tasks have ended, `deadline` seconds have passed, or `force` is set."""
    if not tasks:
        return

    async def all_ended() -> None:
        await asyncio.wait(tasks)

    async def forced() -> None:
        await (force or asyncio.Event()).wait()

    waits = [asyncio.create_task(all_ended()), asyncio.create_task(forced())]
    await asyncio.wait(waits, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
    await cancel_all(waits)
