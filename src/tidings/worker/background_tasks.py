"""Background tasks of a worker (relay, retries, lease reaping, recovery, maintenance) and of an API process.

A worker runs the quick tasks in one loop and the slow ones (reaping, maintenance) in another, which does not delay the
first. A loop of its own has each kind of work of which thousands may be due at one moment, each that waits for an
endpoint of the host product, and each task of a channel or a pack.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import structlog

from tidings.concurrency import cancel_all, run_with_deadline
from tidings.container import AppContainer
from tidings.errors import BackendError
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.record.outcome_buffer import OutcomeBuffer
from tidings.ports.plugin import BackgroundTask, TaskScope
from tidings.ports.store import MAX_CLOCK_DIFFERENCE
from tidings.worker.heartbeat import send_heartbeats
from tidings.worker.interval_tasks import IntervalTask, ScheduledTask, run_intervals

log = structlog.get_logger(__name__)

#: seconds between relays of the outbox to an in-memory queue; work committed by other processes waits this long
RELAY_EVERY = 0.5
#: … to a shared queue, to which processes publish themselves: only rows that could not be published are left
SHARED_RELAY_EVERY = 1.0
#: seconds between reads of the cancellations of other processes
CANCELLATIONS_EVERY = 1.0
#: seconds between deletions of published rows from the outbox
ACK_OUTBOX_EVERY = 2.0
#: seconds between checks for due retries
RETRIES_EVERY = 1.0
#: seconds between checks for due steps
STEPS_EVERY = 1.0
#: seconds between checks for digests that are due to close
CLOSE_DIGESTS_EVERY = 1.0
#: seconds between checks for recurring notifications whose time has come, and for their runs
RECURRING_EVERY = 1.0
#: seconds between checks of the feeds for expired items and for the ends of snoozes
SETTLE_INBOX_EVERY = 1.0
#: seconds between checks for status events to send
STATUS_EVENTS_EVERY = 0.5
#: seconds between checks of the queue for an outage or a reset
CHECK_QUEUE_EVERY = 5.0
#: seconds between reaps; with a lease of 60 s, a killed worker's deliveries continue within 70 s
REAP_LEASES_EVERY = 8.0
#: seconds between searches for database sessions whose process is suspended; see `stalled_sessions.STALLED_AFTER`
TERMINATE_STALLED_EVERY = 10.0
#: seconds between checks of the size of SQLite's write-ahead log
TRUNCATE_LOG_EVERY = 60.0
#: seconds between searches for stuck tasks
REQUEUE_STUCK_EVERY = 10.0
#: seconds of a queue outage before the local fallback starts; longer than a restart of Redis takes
LOCAL_FALLBACK_AFTER = 4.0
#: seconds between checks of the schedules; bounds how late a scheduled run starts
SCHEDULES_EVERY = 2.0
MAINTENANCE_EVERY = timedelta(hours=1)
#: seconds for the last outbox acknowledgement; a remaining row is published a second time, which is harmless
FINAL_ACK_TIMEOUT = 2.0


class BackgroundTasks:
    """The background tasks of a worker."""

    def __init__(self, container: AppContainer, sender: DeliverySender, outcome_buffer: OutcomeBuffer) -> None:
        self._container = container
        self._pipeline = container.pipeline
        self._sender = sender
        self._outcome_buffer = outcome_buffer
        #: whether the open work was re-enqueued locally during the present queue outage
        self._is_local_fallback = False
        self.is_draining = False
        process_every = container.settings.process_every
        self._schedules = [
            ScheduledTask(container.store, container.clock, "tidy", MAINTENANCE_EVERY, container.run_maintenance)
        ]
        if process_every:
            every = timedelta(seconds=process_every)
            self._schedules.append(
                ScheduledTask(container.store, container.clock, "process", every, container.run_due_work)
            )

    async def run(self) -> None:
        """Run all tasks until cancelled."""
        quick = [
            IntervalTask(SHARED_RELAY_EVERY if self._pipeline.queue.is_shared else RELAY_EVERY, self._relay_outbox),
            IntervalTask(CANCELLATIONS_EVERY, self._refresh_cancellations),
            IntervalTask(ACK_OUTBOX_EVERY, self._pipeline.outbox_relay.ack),
            IntervalTask(SETTLE_INBOX_EVERY, self._container.inbox.settle_due),
            IntervalTask(0.0, self._tick),
        ]
        slow = [
            IntervalTask(CHECK_QUEUE_EVERY, self._check_queue),
            IntervalTask(REAP_LEASES_EVERY, self._reap_expired_leases),
            IntervalTask(REQUEUE_STUCK_EVERY, self._container.reconciler.requeue_stuck),
            IntervalTask(TERMINATE_STALLED_EVERY, self._container.store.terminate_stalled_sessions),
            IntervalTask(TRUNCATE_LOG_EVERY, self._container.store.truncate_log),
            IntervalTask(SCHEDULES_EVERY, self._run_schedules),
        ]
        # each in a loop of its own: thousands may be due at one moment
        in_waves = [
            IntervalTask(RETRIES_EVERY, self._batch_due),
            IntervalTask(STEPS_EVERY, self._start_due_steps),
            IntervalTask(CLOSE_DIGESTS_EVERY, self._close_digests),
        ]
        async with asyncio.TaskGroup() as group:
            for wave in in_waves:
                group.create_task(run_intervals([wave], self._container.database_health, poll_interval=RELAY_EVERY))
            group.create_task(run_intervals(quick, self._container.database_health, poll_interval=RELAY_EVERY))
            group.create_task(run_intervals(slow, self._container.database_health, poll_interval=1.0))
            # on its own: it waits for the sources of variables
            recurring = [IntervalTask(RECURRING_EVERY, self._run_recurring)]
            group.create_task(run_intervals(recurring, self._container.database_health, poll_interval=0.5))
            if (sender := self._container.status_event_sender) is not None:
                # on its own: it waits for the endpoint of the host product
                events = [IntervalTask(STATUS_EVENTS_EVERY, sender.send_events)]
                group.create_task(run_intervals(events, self._container.database_health, poll_interval=0.5))
            for task in self._list_plugin_tasks():
                group.create_task(run_intervals([task], self._container.database_health, poll_interval=1.0))

    def _list_plugin_tasks(self) -> Iterator[IntervalTask]:
        container = self._container
        for owner, task in container.create_plugin_tasks():
            if task.scope is not TaskScope.ONE_WORKER:
                yield _to_interval_task(owner, task)
                continue
            schedule = ScheduledTask(container.store, container.clock, f"{owner}.{task.name}", task.every, task.work)
            check_every = min(SCHEDULES_EVERY, task.every.total_seconds())
            yield IntervalTask(check_every, partial(self._run_schedule, schedule), f"{owner}.{task.name}")

    async def _run_schedule(self, schedule: ScheduledTask) -> None:
        if not self.is_draining:
            await schedule.run_if_due()

    async def _tick(self) -> None:
        last_tick_at, now = self._pipeline.last_tick_at, self._pipeline.clock.now()
        self._pipeline.last_tick_at = now
        if last_tick_at is not None and now < last_tick_at - MAX_CLOCK_DIFFERENCE:
            log.warning("clock_set_back", seconds=round((last_tick_at - now).total_seconds(), 1))
            await self._container.reconciler.advance_retries()

    async def _relay_outbox(self) -> None:
        # not while draining: this process no longer consumes its queue
        while (
            not self.is_draining and await self._pipeline.outbox_relay.relay() >= self._pipeline.config.relay_batch_size
        ):
            pass

    async def _refresh_cancellations(self) -> None:
        await self._pipeline.cancellations.refresh(self._sender.held_notification_ids)

    async def _check_queue(self) -> None:
        try:
            await self._pipeline.queue.ping()
            if self._pipeline.queue.is_shared:
                await self._container.reconciler.detect_queue_reset()
        except BackendError as error:
            # of the database only; the queue adapter observes the queue
            self._container.database_health.record_own_failure(error)
        down_seconds = self._pipeline.queue.down_seconds
        if down_seconds is None:
            self._is_local_fallback = False
        elif down_seconds >= LOCAL_FALLBACK_AFTER and not (self._is_local_fallback or self.is_draining):
            await self._container.reconciler.requeue_locally()
            self._is_local_fallback = True

    async def _reap_expired_leases(self) -> None:
        # own outcomes first: after a database stall of a minute, this worker's own leases would count as expired
        await self._outcome_buffer.flush()
        await self._container.reconciler.reap_expired_leases()

    async def _batch_due(self) -> None:
        while not self.is_draining and await self._pipeline.batch_due():
            pass

    async def _start_due_steps(self) -> None:
        while not self.is_draining and await self._pipeline.step_runner.start_due():
            pass

    async def _close_digests(self) -> None:
        while not self.is_draining and await self._pipeline.digest_closer.close_due():
            pass

    async def _run_recurring(self) -> None:
        while not self.is_draining and await self._container.recurring_runner.run_due():
            pass

    async def _run_schedules(self) -> None:
        for schedule in [] if self.is_draining else self._schedules:
            await schedule.run_if_due()


def _to_interval_task(owner: str, task: BackgroundTask) -> IntervalTask:
    return IntervalTask(task.every.total_seconds(), task.work, f"{owner}.{task.name}")


@asynccontextmanager
async def run_api_background_tasks(container: AppContainer) -> AsyncIterator[None]:
    """Run the background tasks of a process without a worker for the duration of the block."""
    tasks = [
        IntervalTask(ACK_OUTBOX_EVERY, container.pipeline.outbox_relay.ack),
        IntervalTask(TERMINATE_STALLED_EVERY, container.store.terminate_stalled_sessions),
        # so that an outage of the queue is logged even while no request needs it
        IntervalTask(CHECK_QUEUE_EVERY, container.queue.ping),
    ]
    health = container.database_health
    async with send_heartbeats(container.store, container.clock, container.role.value, dict, health, container.alerts):
        of_plugins = [
            _to_interval_task(owner, task)
            for owner, task in container.create_plugin_tasks()
            if task.scope is TaskScope.EACH_PROCESS
        ]
        running = [
            asyncio.create_task(run_intervals(group, health, poll_interval=1.0), name="background tasks")
            for group in (tasks, *([task] for task in of_plugins))
        ]
        try:
            yield
        finally:
            await cancel_all(running)
            try:
                await run_with_deadline(FINAL_ACK_TIMEOUT, container.pipeline.outbox_relay.ack())
            except (BackendError, TimeoutError):
                log.debug("outbox_ack_failed")
