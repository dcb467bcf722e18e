"""The shared queue with a way out: while it is away a consuming process goes on from lanes of its own."""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from datetime import datetime

import structlog

from tidings.errors import BackendError
from tidings.model.priority import LANES, Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import LaneStats, Queue
from tidings.queues.local import LocalQueue

log = structlog.get_logger(__name__)

#: seconds between two looks whether the shared queue is back
PROBE_EVERY = 1.0


class FallbackQueue:
    """Implements `ports.queue.Queue` over a shared queue that may be away.

    Nothing is handed out twice on purpose; what is nevertheless, the database's claims make harmless.
    """

    shared = True

    def __init__(self, queue: Queue, clock: Clock, *, consumes: bool) -> None:
        """consumes: whether this process takes tasks. One that does not refuses to publish meanwhile."""
        self._queue = queue
        self._clock = clock
        self._local = LocalQueue(clock)
        self._consumes = consumes
        self._probe: asyncio.Task[None] | None = None
        self._queues: tuple[Queue, Queue] = (queue, self._local)
        self._closed = False
        #: taken and not handed out yet
        self._spare: dict[Lane, list[Task]] = {lane: [] for lane in LANES}
        #: what goes on taking from a queue
        self._takes: dict[Lane, dict[Queue, asyncio.Task[None]]] = {lane: {} for lane in LANES}

    @property
    def away(self) -> bool:
        """Whether the shared queue did not answer and is being looked for."""
        return self._probe is not None

    async def publish(self, tasks: Sequence[Task]) -> None:
        if not self.away:
            try:
                await self._queue.publish(tasks)
            except BackendError as error:
                self._lost(error)
            else:
                return
        if not self._consumes:
            raise BackendError("the queue does not answer; the work stays in the outbox", retry_after=PROBE_EVERY)
        await self._local.publish(tasks)

    async def take(self, lane: Lane, limit: int) -> Sequence[Task]:
        while not self._spare[lane] and not self._closed:
            takes = self._takes[lane]
            for queue in self._queues:
                if queue not in takes:
                    takes[queue] = asyncio.create_task(self._spared(lane, queue.take(lane, limit)))
            # The other goes on, and finds the next tasks: to end it would be to wait for a shared queue that hangs. If
            # we are cancelled both go on, and the next to come has what they find.
            done, _ = await asyncio.wait(takes.values(), return_when=asyncio.FIRST_COMPLETED)
            self._takes[lane] = {queue: take for queue, take in takes.items() if take not in done}
            for take in done:
                take.result()
        if self._closed:
            return []
        tasks, self._spare[lane] = self._spare[lane][:limit], self._spare[lane][limit:]
        return tasks

    async def done(self, tasks: Sequence[Task]) -> None:
        of_local, of_shared = self._parted(tasks)
        await self._local.done(of_local)
        await self._queue.done(of_shared)

    async def again(self, tasks: Sequence[Task], *, at: datetime, why: str) -> None:
        of_local, of_shared = self._parted(tasks)
        await self._local.again(of_local, at=at, why=why)
        await self._queue.again(of_shared, at=at, why=why)

    async def epoch(self) -> str:
        """The shared queue's: while it is away this raises, and its return with or without its tasks is seen."""
        return await self._queue.epoch()

    async def stats(self, lane: Lane) -> LaneStats:
        """Both together; of this process alone while the shared queue is away."""
        local = await self._local.stats(lane)
        if self.away:
            if not self._consumes:
                raise BackendError("the queue does not answer", retry_after=PROBE_EVERY)
            return local
        try:
            shared = await self._queue.stats(lane)
        except BackendError as error:
            self._lost(error)
            if not self._consumes:
                raise
            return local
        return LaneStats(
            waiting=shared.waiting + local.waiting,
            active=shared.active + local.active,
            delayed=shared.delayed + local.delayed,
            failed=shared.failed + local.failed,
            completed=shared.completed + local.completed,
            oldest=min((one.oldest for one in (shared, local) if one.oldest), default=None),
            rate=shared.rate + local.rate,
        )

    async def intake(self) -> LaneStats | None:
        return None if self.away else await self._queue.intake()

    async def tidy(self) -> None:
        await self._queue.tidy()

    async def ping(self) -> None:
        try:
            await self._queue.ping()
        except BackendError as error:
            self._lost(error)
            raise

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(self._local.close(), self._queue.close())
        if takes := [take for of_lane in self._takes.values() for take in of_lane.values()]:
            await asyncio.wait(takes)
        unbegun = [task for spare in self._spare.values() for task in spare]
        self._spare = {lane: [] for lane in LANES}
        await self.again(unbegun, at=self._clock.now(), why="not begun before the end of its worker")

    async def release(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        await self._queue.release()

    def _lost(self, error: BackendError) -> None:
        if self._probe is None:
            log.warning("queue_away", problem=error.message, consumes=self._consumes)
            self._probe = asyncio.create_task(self._look())

    async def _look(self) -> None:
        back = False
        while not back:
            await asyncio.sleep(PROBE_EVERY)
            with contextlib.suppress(BackendError):
                await self._queue.ping()
                back = True
        log.info("queue_back")
        self._probe = None

    def _parted(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Part tasks by where they were taken."""
        of_local = [task for task in tasks if self._local.holds(task)]
        held = set(of_local)
        return of_local, [task for task in tasks if task not in held]

    async def _spared(self, lane: Lane, taking: Awaitable[Sequence[Task]]) -> None:
        # first wait, then look at what is spare: others take from it meanwhile
        tasks = await taking
        self._spare[lane] += tasks
