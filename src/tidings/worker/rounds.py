"""What goes round on a timer: outbox → queue, retries that are due, lost leases, tidying."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tidings.errors import BackendError
from tidings.flow.deliver.send import Sender
from tidings.flow.pipeline import Pipeline
from tidings.flow.record.recorder import Recorder
from tidings.flow.recovery import Recovery

log = structlog.get_logger(__name__)

#: seconds between looks at the outbox: what other processes committed waits this long
RELAY_EVERY = 0.5
#: seconds until a cancellation in another process is learned of
CANCELLATIONS_EVERY = 1.0
#: seconds between removals from the outbox of what the queue has
SETTLE_EVERY = 2.0
#: seconds between looks for retries that have come due
RETRIES_EVERY = 1.0
#: seconds until a VAPID key that another process added is taken over
KEYS_EVERY = 10.0
SWEEP_EVERY = 15.0
TIDY_EVERY = 3600.0


class Rounds:
    """The timers of one process, in one loop."""

    def __init__(
        self,
        pipeline: Pipeline,
        recovery: Recovery,
        sender: Sender,
        recorder: Recorder,
        reload_keys: Callable[[], Awaitable[object]],
    ) -> None:
        self._pipeline = pipeline
        self._recovery = recovery
        self._sender = sender
        self._recorder = recorder
        self._reload_keys = reload_keys

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        upkeep = [
            (CANCELLATIONS_EVERY, self._cancellations),
            (SETTLE_EVERY, self._pipeline.settle_outbox),
            (RETRIES_EVERY, self._retries),
            (KEYS_EVERY, self._reload_keys),
            (SWEEP_EVERY, self._sweep),
            (TIDY_EVERY, self._recovery.tidy),
        ]
        due = {index: loop.time() + every for index, (every, _) in enumerate(upkeep)}
        while True:
            await self._guarded(self._relay)
            for index, (every, work) in enumerate(upkeep):
                if loop.time() >= due[index]:
                    await self._guarded(work)
                    due[index] = loop.time() + every
            self._pipeline.last_round = self._pipeline.clock.now()
            await asyncio.sleep(RELAY_EVERY)

    async def _relay(self) -> None:
        while await self._pipeline.dispatch() >= self._pipeline.sizes.relay:
            pass

    async def _cancellations(self) -> None:
        await self._pipeline.learn_cancellations(self._sender.held)

    async def _sweep(self) -> None:
        # own outcomes first, or a database that stalled for a minute would make own leases look abandoned
        await self._recorder.flush()
        await self._recovery.sweep()

    async def _retries(self) -> None:
        while await self._pipeline.wake_due():
            pass

    async def _guarded(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except BackendError as error:
            log.warning("backend_away", problem=error.message)
        except Exception:  # the next round tries again; a loop that ended would stop all sending
            log.exception("round_failed", work=getattr(work, "__name__", "work"))
