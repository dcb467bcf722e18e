"""Runs all loops and ends them in order: stop taking, let sends end, write outcomes, give the rest back."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tidings.errors import BackendError
from tidings.flow.deliver.send import Sender
from tidings.flow.pipeline import Pipeline
from tidings.flow.record.recorder import Recorder
from tidings.flow.recovery import Recovery
from tidings.model.priority import LANES
from tidings.worker.consume import Consumer
from tidings.worker.rounds import Rounds

log = structlog.get_logger(__name__)


class Worker:
    """The working half of a process."""

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
        self._rounds = Rounds(pipeline, recovery, sender, recorder, reload_keys)
        self._consumers = [Consumer(lane, pipeline, sender) for lane in LANES]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Recover what the last run left, then start the loops."""
        found = await self._recovery.redrive()
        if found and (found.notifications or found.batches or found.claims):
            log.info("recovered", notifications=found.notifications, batches=found.batches, claims=found.claims)
        self._pipeline.on_cancel(self._sender.cancelled)
        self._pipeline.attended = True
        loops = [*(consumer.run() for consumer in self._consumers), self._rounds.run(), self._recorder.run()]
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def wait(self) -> None:
        """Return when a loop ends, which only happens through `stop` or a bug; raises what the loop raised."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def stop(self, deadline: float = 6.0) -> None:
        """Drain within `deadline` seconds; what could not be sent is given back for the next start."""
        self._sender.stop()
        await self._pipeline.queue.close()
        consumers, others = self._tasks[: len(self._consumers)], self._tasks[len(self._consumers) :]
        if consumers:
            _, late = await asyncio.wait(consumers, timeout=deadline)
            if late:
                log.warning("sends_abandoned", lanes=len(late), deadline_s=deadline)
        for task in consumers:
            task.cancel()
        await asyncio.gather(*consumers, return_exceptions=True)
        try:
            # the outcomes first: what is not written when the rest is given back would be sent again
            await self._recorder.flush()
            await self._pipeline.give_back()
            await self._pipeline.settle_outbox()
        except BackendError as error:
            log.error("not_all_written", unwritten=self._recorder.waiting, problem=error.message)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
