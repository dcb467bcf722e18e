"""What goes round on timers: outbox → queue, retries that are due, lost leases, lost work, upkeep.

Two loops, so that what may take long (a sweep, erasing what is old) never holds up what must be quick.
"""

import asyncio
from datetime import timedelta

from tidings.flow.deliver.send import Sender
from tidings.flow.record.recorder import Recorder
from tidings.runtime import Runtime
from tidings.worker.outage import Outage
from tidings.worker.schedule import Scheduled
from tidings.worker.timers import Round, go_round

#: seconds between looks at the outbox: what other processes committed waits this long
RELAY_EVERY = 0.5
#: … where they tell a shared queue themselves: only what died in between, or found the queue away, is left for us
RELAY_LEFT_EVERY = 1.0
#: seconds until a cancellation in another process is learned of
CANCELLATIONS_EVERY = 1.0
#: seconds between removals from the outbox of what the queue has
SETTLE_EVERY = 2.0
#: seconds between looks for retries that have come due
RETRIES_EVERY = 1.0
#: seconds until a VAPID key that another process added is taken over
KEYS_EVERY = 10.0
#: seconds until it is noticed that the queue was emptied
EPOCH_EVERY = 5.0
#: with a lease of 60 s: what a killed worker held goes on within 70 s
SWEEP_EVERY = 8.0
#: seconds between looks for what the queue lost
LOST_EVERY = 10.0
#: seconds that the queue is away before its work is taken up from the database: a restart is quicker
ALONE_AFTER = 4.0
#: seconds between looks at the schedules; a run is late by this much at most
SCHEDULES_EVERY = 2.0
TIDY_EVERY = timedelta(hours=1)


class Rounds:
    """The timers of one process."""

    def __init__(self, runtime: Runtime, sender: Sender, recorder: Recorder) -> None:
        self._runtime = runtime
        self._pipeline = runtime.pipeline
        self._sender = sender
        self._recorder = recorder
        self.queue = Outage("queue")
        #: since the queue went away its work was taken up from the database
        self._alone = False
        self.draining = False
        process_every = runtime.settings.process_every
        self._schedules = [Scheduled(runtime.store, runtime.clock, "tidy", TIDY_EVERY, runtime.tidy)]
        if process_every:
            every = timedelta(seconds=process_every)
            self._schedules.append(Scheduled(runtime.store, runtime.clock, "process", every, runtime.process))

    async def run(self) -> None:
        """Go round until cancelled."""
        quick = [
            Round(RELAY_LEFT_EVERY if self._pipeline.queue.shared else RELAY_EVERY, self._relay),
            Round(CANCELLATIONS_EVERY, self._cancellations),
            Round(SETTLE_EVERY, self._pipeline.settle_outbox),
            Round(RETRIES_EVERY, self._retries),
            Round(KEYS_EVERY, self._runtime.reload_keys),
            Round(0.0, self._gone_round),
        ]
        slow = [
            Round(EPOCH_EVERY, self._queue_lost),
            Round(SWEEP_EVERY, self._sweep),
            Round(LOST_EVERY, self._runtime.recovery.find_lost),
            Round(SCHEDULES_EVERY, self._run_schedules),
        ]
        async with asyncio.TaskGroup() as group:
            group.create_task(go_round(quick, pause=RELAY_EVERY))
            group.create_task(go_round(slow, pause=1.0))

    async def _gone_round(self) -> None:
        self._pipeline.last_round = self._pipeline.clock.now()

    async def _relay(self) -> None:
        # once it drains, what is due is for others: this process takes nothing from its queue any more
        while not self.draining and await self._pipeline.dispatch() >= self._pipeline.sizes.relay:
            pass

    async def _cancellations(self) -> None:
        await self._pipeline.learn_cancellations(self._sender.held)

    async def _queue_lost(self) -> None:
        with self.queue.watched():
            await self._pipeline.queue.ping()
            self._alone = False
            if self._pipeline.queue.shared:
                await self._runtime.recovery.compare_epochs()
        away = self.queue.seconds
        if away is not None and away >= ALONE_AFTER and not (self._alone or self.draining):
            await self._runtime.recovery.go_alone()
            self._alone = True

    async def _sweep(self) -> None:
        # own outcomes first, or a database that stalled for a minute would make own leases look abandoned
        await self._recorder.flush()
        await self._runtime.recovery.sweep()

    async def _retries(self) -> None:
        while not self.draining and await self._pipeline.wake_due():
            pass

    async def _run_schedules(self) -> None:
        for one in [] if self.draining else self._schedules:
            await one.run_if_due()
