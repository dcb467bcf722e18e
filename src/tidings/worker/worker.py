"""Runs all loops and ends them in order: stop taking, let sends end, write outcomes, give the rest back."""

import asyncio
from collections.abc import Mapping

import structlog

from tidings.ending import cancelled, seen, within
from tidings.errors import BackendError
from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.send import Sender
from tidings.flow.record.recorder import Recorder
from tidings.model.priority import LANES
from tidings.runtime import Runtime
from tidings.worker.consume import Consumer
from tidings.worker.intake import Intake
from tidings.worker.rounds import Rounds
from tidings.worker.timers import Round, go_round

log = structlog.get_logger(__name__)

#: seconds that writing the last outcomes may take, whatever the deadline: what is not written is sent again
WRITES_WITHIN = 3.0
#: seconds between removals of old jobs from the intake, which the server forgets to do while nothing comes
TIDY_INTAKE_EVERY = 3600.0


class Worker:
    """The working half of a process."""

    def __init__(
        self, runtime: Runtime, sender: Sender, recorder: Recorder, gate: Gate, intake: Intake | None = None
    ) -> None:
        """intake: takes jobs from outside; None = there is no shared queue that they could come on."""
        self._intake = intake
        self._pipeline = runtime.pipeline
        self._recovery = runtime.recovery
        self._sender = sender
        self._recorder = recorder
        self._gate = gate
        self._clock = runtime.clock
        self._rounds = Rounds(runtime, sender, recorder)
        self._consumers = [Consumer(lane, runtime.pipeline, sender) for lane in LANES]
        self._stopped = False
        self._lanes: list[asyncio.Task[None]] = []
        self._others: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Recover what the last run left, then start the loops. A queue that is away is waited for by them."""
        try:
            found = await self._recovery.redrive()
        except BackendError as error:
            log.warning("queue_away", problem=error.message)
        else:
            if found and (found.notifications or found.batches or found.claims):
                log.info("recovered", notifications=found.notifications, batches=found.batches, claims=found.claims)
        self._pipeline.on_cancel(self._sender.cancelled)
        self._pipeline.attended = True
        self._pipeline.last_round = self._clock.now()
        self._lanes = [asyncio.create_task(consumer.run()) for consumer in self._consumers]
        self._others = [asyncio.create_task(self._rounds.run()), asyncio.create_task(self._recorder.run())]
        if self._intake is not None:
            self._lanes.append(asyncio.create_task(self._intake.run()))
            tidy = [Round(TIDY_INTAKE_EVERY, self._intake.tidy)]
            self._others.append(asyncio.create_task(go_round(tidy, pause=60.0)))

    async def wait(self) -> None:
        """Return when a loop ends, which only happens through `stop` or a bug; raises what the loop raised."""
        done, _ = await asyncio.wait([*self._lanes, *self._others], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    def detail(self) -> Mapping[str, object]:
        """Return this worker's figures, for its heartbeat."""
        round_at, away = self._pipeline.last_round, self._rounds.queue.seconds
        return {
            "inFlight": self._gate.in_flight,
            "unwritten": self._recorder.waiting,
            "lanes": [lane.value for lane in LANES],
            "roundAge": None if round_at is None else round((self._clock.now() - round_at).total_seconds(), 1),
            "draining": self._rounds.draining,
            "queueAwaySeconds": None if away is None else round(away, 1),
        }

    async def quiesce(self) -> None:
        """Take and send nothing new from now on; what is in flight goes on."""
        self._rounds.draining = True
        # what is accepted from now on stays in the outbox, for others to find
        self._pipeline.attended = False
        self._sender.stop()
        closing = [self._pipeline.queue.close(), *([self._intake.close()] if self._intake else [])]
        # together: each may have to wait for a server that hangs
        await asyncio.gather(*closing)

    async def stop(self, deadline: float, hurry: asyncio.Event | None = None) -> None:
        """Drain within `deadline` seconds; what could not be sent is given back for another worker.

        hurry: once set, sends in flight are not waited for any longer. Stopping again does nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        loop = asyncio.get_running_loop()
        begun = loop.time()
        lanes, others = self._lanes, self._others
        if lanes:
            log.info("draining", in_flight=self._gate.in_flight, within_s=round(deadline, 1))
        await self._quiesced(deadline, hurry)
        await _ended(lanes, max(0.0, begun + deadline - loop.time()), hurry)
        if late := [task for task in lanes if not task.done()]:
            log.warning("sends_abandoned", lanes=len(late), deadline_s=round(deadline, 1))
        await cancelled(lanes)
        given_back = await self._write_last() if others else 0
        await cancelled(others)
        if lanes:
            log.info("drained", given_back=given_back, after_s=round(loop.time() - begun, 1))

    async def _quiesced(self, deadline: float, hurry: asyncio.Event | None) -> None:
        closing = asyncio.create_task(self.quiesce())
        closing.add_done_callback(seen)
        try:
            await _ended([closing], deadline, hurry)
            if not closing.done() or closing.cancelled():
                log.warning("queues_not_closed", deadline_s=round(deadline, 1))
            elif error := closing.exception():
                # whatever it is: the outcomes are still to be written
                log.error("queues_not_closed", exc_info=error)
        finally:
            closing.cancel()

    async def _write_last(self) -> int:
        """Write the last outcomes, put the rest back; return how many deliveries that is."""
        try:
            return await within(WRITES_WITHIN, self._last_writes())
        except (BackendError, TimeoutError) as error:
            problem = error.message if isinstance(error, BackendError) else "the database does not answer"
            log.error("not_all_written", unwritten=self._recorder.waiting, problem=problem)
            return 0

    async def _last_writes(self) -> int:
        # the outcomes first: what is not written when the rest is given back would be sent again
        await self._recorder.flush()
        given_back = await self._pipeline.give_back()
        await self._pipeline.settle_outbox()
        return given_back


async def _ended(tasks: list[asyncio.Task[None]], deadline: float, hurry: asyncio.Event | None) -> None:
    """Wait for the tasks to end, no longer than `deadline` seconds and not once `hurry` is set."""
    if not tasks:
        return

    async def all_ended() -> None:
        await asyncio.wait(tasks)

    async def rushed() -> None:
        await (hurry or asyncio.Event()).wait()

    waits = [asyncio.create_task(all_ended()), asyncio.create_task(rushed())]
    await asyncio.wait(waits, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
    await cancelled(waits)
